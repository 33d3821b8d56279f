"""The printed tables of both papers, and the arithmetic that they carry: relative improvements and differences.

Values are copied from the papers; what is computed here is what their text claims to follow from them.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.charts import save_rows
from utils.config.knobs import StudyConfig


@dataclass(frozen=True)
class Comparison:
    """A SCALoss table: AP columns per loss, the first one the base of the printed relative improvements (percent)."""

    name: str
    columns: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    printed: dict[str, tuple[float, ...]]

    def relative_improvements(self, loss: str) -> list[float]:
        """Return 100 (value / base - 1) of a loss."""
        base = next(iter(self.values.values()))
        return [100 * (value / first - 1) for value, first in zip(self.values[loss], base, strict=True)]


AP = ("mAP", "AP50", "AP65", "AP75", "AP80", "AP90")
SCALOSS = (
    Comparison(
        "SCALoss Table 1: YOLOv3-tiny, COCO val2017",
        AP,
        {
            "iou": (18.8, 36.2, 27.2, 17.3, 11.6, 1.9),
            "giou": (18.8, 36.2, 27.1, 17.6, 11.8, 2.1),
            "diou": (18.8, 36.4, 26.9, 17.2, 11.8, 1.9),
            "ciou": (18.9, 36.6, 27.3, 17.2, 11.6, 2.1),
            "sca": (19.9, 36.6, 28.3, 19.1, 13.3, 2.7),
        },
        {
            "giou": (0, 0, -0.37, 1.73, 1.72, 10.53),
            "diou": (0, 0.55, -1.1, -0.58, 1.72, 0),
            "ciou": (0.53, 1.1, 0.37, -0.58, 0, 10.53),
            "sca": (5.85, 1.1, 4.04, 10.4, 14.66, 42.11),
        },
    ),
    Comparison(
        "SCALoss Table 2: YOLOv3, COCO val2017",
        AP,
        {
            "iou": (44.8, 64.2, 57.5, 48.8, 41.8, 20.7),
            "giou": (44.7, 64.4, 57.5, 48.5, 42.0, 20.4),
            "diou": (44.7, 64.3, 57.5, 48.9, 42.1, 19.8),
            "ciou": (44.7, 64.3, 57.5, 48.9, 41.7, 19.8),
            "sca": (45.3, 64.1, 57.9, 49.9, 43.3, 21.4),
        },
        {
            "giou": (-0.22, 0.31, 0, -0.61, 0.48, -1.45),
            "diou": (-0.22, 0.16, 0, 0.2, 0.72, -4.35),
            "ciou": (-0.22, 0.16, 0, 0.2, -0.24, -4.35),
            "sca": (1.12, -0.16, 0.7, 2.25, 3.59, 3.38),
        },
    ),
    Comparison(
        "SCALoss Table 3: SSD, VOC 2007 test",
        AP,
        {
            "iou": (52.28, 78.26, 68.51, 56.22, 46.9, 20.2),
            "giou": (52.5, 78.57, 69.11, 56.71, 46.87, 19.88),
            "diou": (52.65, 78.64, 69.11, 56.55, 47.9, 20.09),
            "ciou": (52.75, 78.76, 69.03, 56.45, 48.56, 20.69),
            "sca": (53.45, 78.82, 69.17, 57.22, 48.49, 22.67),
        },
        {
            "giou": (0.42, 0.4, 0.88, 0.87, -0.06, -1.58),
            "diou": (0.71, 0.49, 0.88, 0.59, 2.13, -0.54),
            "ciou": (0.9, 0.64, 0.76, 0.41, 3.54, 2.43),
            "sca": (2.24, 0.72, 0.96, 1.78, 3.39, 12.23),
        },
    ),
    Comparison(
        "SCALoss Table 4: Faster R-CNN, VOC 2007 test",
        AP,
        {
            "iou": (50.85, 79.6, 69.85, 55.14, 43.23, 13.01),
            "giou": (50.9, 79.69, 70.56, 55.0, 43.34, 12.7),
            "diou": (50.86, 79.99, 70.48, 54.56, 42.79, 12.8),
            "ciou": (51.08, 79.52, 70.07, 55.12, 44.04, 13.1),
            "sca": (51.84, 80.21, 70.91, 56.18, 45.14, 13.77),
        },
        {
            "giou": (0.1, 0.11, 1.02, -0.25, 0.25, -2.38),
            "diou": (0.02, 0.49, 0.9, -1.05, -1.02, -1.61),
            "ciou": (0.45, -0.1, 0.31, -0.04, 1.87, 0.69),
            "sca": (1.95, 0.77, 1.52, 1.89, 4.42, 5.84),
        },
    ),
    Comparison(
        "SCALoss Table 5: Faster R-CNN, LVIS 1.0 val",
        ("mAP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
        {
            "iou": (16.7, 29.4, 16.2, 13.1, 22.6, 26.3, 3.8, 14.2, 25.1),
            "giou": (17.0, 29.1, 17.2, 13.0, 23.3, 26.7, 4.4, 14.4, 25.3),
            "diou": (16.8, 29.5, 16.6, 13.3, 23.2, 26.2, 3.3, 14.5, 25.2),
            "ciou": (16.7, 29.5, 16.5, 13.2, 23.2, 26.1, 3.3, 14.3, 25.3),
            "sca": (17.7, 30.4, 18.0, 13.5, 24.1, 28.3, 4.9, 15.4, 25.9),
        },
        {
            "giou": (1.8, -1.02, 6.17, -0.76, 3.1, 1.52, 15.79, 1.41, 0.8),
            "diou": (0.6, 0.34, 2.47, 1.53, 2.65, -0.38, -13.16, 2.11, 0.4),
            "ciou": (0, 0.34, 1.85, 0.76, 2.65, -0.76, -13.16, 0.7, 0.8),
            "sca": (5.99, 3.4, 11.11, 3.05, 6.64, 7.6, 28.95, 8.45, 3.19),
        },
    ),
)
SCALOSS_PARTS = {  # Table 6, SSD, VOC 2007 test
    "center": 19.17,
    "cd": 52.64,
    "iou": 52.28,
    "diou": 52.65,
    "iou_cd": 52.97,
    "so": 53.07,
    "sca": 53.45,
}
SCALOSS_ALPHAS = {0.2: 53.23, 0.3: 53.26, 0.4: 53.34, 0.5: 53.45, 0.6: 53.33, 0.7: 53.23}  # Table 7, mAP

# GGIoU Table 8: SCD, mAP and AP50 to AP95, without and with the method.
SCD_THRESHOLDS = tuple(range(50, 100, 5))
SCD = {
    "ResNet18": (
        (78.0, 94.6, 93.8, 92.8, 91.5, 89.3, 86.4, 82.3, 75.4, 59.6, 14.0),
        (81.2, 95.2, 94.8, 93.9, 92.8, 91.0, 88.6, 85.0, 79.7, 67.1, 23.7),
    ),
    "ResNet50": (
        (80.7, 95.4, 95.0, 94.2, 93.0, 91.3, 88.7, 84.9, 78.6, 65.2, 21.0),
        (84.0, 96.2, 95.6, 95.0, 94.2, 92.6, 90.6, 87.6, 83.2, 72.8, 32.6),
    ),
    "ResNet101": (
        (82.7, 96.0, 95.4, 94.9, 93.8, 92.2, 90.1, 87.1, 81.8, 70.0, 25.9),
        (85.6, 96.6, 95.8, 95.6, 94.7, 93.6, 91.8, 89.4, 85.1, 76.2, 37.3),
    ),
    "ResNeXt-32x4d-101": (
        (83.2, 96.2, 95.8, 95.1, 94.2, 92.7, 90.4, 87.3, 82.8, 70.7, 26.4),
        (86.1, 96.8, 96.5, 95.9, 95.0, 94.0, 92.0, 89.9, 85.7, 76.4, 38.4),
    ),
}
FIGURE_3 = (0.65, 0.675, 0.85, 1.05, 1.425, 1.85, 2.575, 3.775, 6.75, 11.175)

# mAP AP50 AP60 AP70 AP80 AP90
GGIOU_BASE = (0.308, 0.496, 0.450, 0.376, 0.261, 0.086)
# (beta, alpha) -> row; sigma from the truth box (Table 1) and from the overlap box (Table 2). COCO val2017, ResNet18.
GGIOU_TRUTH = {
    ("1/6", 0.4): (0.309, 0.487, 0.448, 0.377, 0.270, 0.094),
    ("1/6", 0.3): (0.313, 0.492, 0.451, 0.381, 0.271, 0.095),
    ("1/6", 0.2): (0.309, 0.490, 0.448, 0.377, 0.268, 0.089),
    ("1/5", 0.4): (0.306, 0.485, 0.444, 0.374, 0.264, 0.090),
    ("1/5", 0.3): (0.313, 0.496, 0.455, 0.384, 0.271, 0.094),
    ("1/5", 0.2): (0.312, 0.493, 0.452, 0.383, 0.268, 0.093),
}
GGIOU_OVERLAP = {
    ("1/6", 0.3): (0.317, 0.499, 0.456, 0.387, 0.277, 0.101),
    ("1/7", 0.3): (0.317, 0.500, 0.458, 0.387, 0.278, 0.100),
    ("1/8", 0.3): (0.315, 0.494, 0.452, 0.385, 0.277, 0.097),
    ("1/6", 0.4): (0.315, 0.496, 0.456, 0.383, 0.273, 0.098),
    ("1/7", 0.4): (0.316, 0.498, 0.456, 0.383, 0.276, 0.099),
    ("1/8", 0.4): (0.314, 0.493, 0.451, 0.384, 0.275, 0.098),
}
# Table 5 (COCO val2017) and Table 7 (VOC 2007 test): backbone -> without, with; mAP AP50 AP60 AP70 AP80 AP90.
GGIOU_UNION = {
    "ResNet18": (GGIOU_BASE, (0.323, 0.497, 0.458, 0.390, 0.288, 0.111)),
    "ResNet50": ((0.356, 0.555, 0.510, 0.432, 0.311, 0.113), (0.370, 0.558, 0.516, 0.450, 0.338, 0.141)),
    "ResNet101": ((0.377, 0.575, 0.533, 0.460, 0.337, 0.130), (0.392, 0.580, 0.539, 0.472, 0.363, 0.163)),
    "ResNeXt101": ((0.390, 0.594, 0.522, 0.476, 0.349, 0.141), (0.410, 0.601, 0.561, 0.492, 0.382, 0.175)),
}
GGIOU_VOC = {
    "ResNet18": ((47.5, 74.9, 69.7, 58.3, 39.9, 13.9), (49.4, 74.4, 70.5, 60.2, 43.9, 17.3)),
    "ResNet50": ((52.3, 79.2, 74.5, 64.2, 45.8, 17.4), (54.2, 78.7, 74.9, 65.9, 49.8, 21.6)),
    "ResNet101": ((54.5, 79.7, 75.8, 66.2, 50.7, 21.0), (56.4, 79.9, 76.4, 68.3, 53.0, 24.6)),
    "ResNeXt101": ((56.0, 80.8, 77.1, 67.4, 52.3, 23.0), (58.0, 80.7, 77.4, 69.8, 54.9, 28.0)),
}
# Table 6 (COCO test-dev): model -> without, with; mAP AP50 AP75.
GGIOU_TEST_DEV = {
    "SSD300": ((25.7, 44.2, 26.4), (27.2, 45.2, 28.6)),
    "SSD512": ((29.6, 49.5, 31.2), (30.9, 50.1, 32.9)),
    "ResNet18": ((31.5, 50.5, 33.2), (32.8, 50.6, 35.3)),
    "ResNet50": ((35.9, 55.8, 38.4), (37.3, 56.1, 40.1)),
    "ResNet101": ((38.1, 58.5, 40.8), (39.5, 58.5, 42.7)),
    "ResNeXt101": ((39.4, 60.2, 42.3), (40.9, 60.3, 44.4)),
}
# Figure 2 (COCO val2017): class -> AP with the IoU assignment, with the GGIoU assignment.
GGIOU_CLASSES = {
    "potted plant": (0.192, 0.194),
    "bed": (0.359, 0.364),
    "tv": (0.471, 0.473),
    "person": (0.457, 0.474),
    "umbrella": (0.278, 0.295),
    "wine glass": (0.299, 0.317),
}


def differences(pair: tuple[tuple[float, ...], tuple[float, ...]]) -> list[float]:
    """Subtract the row without the method from the row with it, column by column."""
    return [after - before for before, after in zip(*pair, strict=True)]


def figure_3() -> list[float]:
    """Return the mean improvement of AP50 to AP95 on SCD over the four backbones of Table 8."""
    gains = [differences(pair)[1:] for pair in SCD.values()]
    return [sum(column) / len(gains) for column in zip(*gains, strict=True)]


def improvement_rows() -> list[dict]:
    """Return every relative improvement that SCALoss prints, recomputed."""
    return [
        {"table": table.name, "loss": loss, "column": column, "printed": printed, "recomputed": recomputed}
        for table in SCALOSS
        for loss, row in table.printed.items()
        for column, printed, recomputed in zip(table.columns, row, table.relative_improvements(loss), strict=True)
    ]


def run(settings: StudyConfig) -> None:
    """Write tables_scaloss.csv and tables_figure_3.csv."""
    out, rows = Path(settings.out), improvement_rows()
    save_rows(rows, out / "tables_scaloss.csv")
    worst = max(abs(row["printed"] - row["recomputed"]) for row in rows)
    print(f"SCALoss Tables 1 to 5: {len(rows)} relative improvements, at most {worst:.4f} percentage points off")
    third = [
        {"threshold": threshold, "printed": printed, "mean_difference_of_table_8": mean}
        for threshold, printed, mean in zip(SCD_THRESHOLDS, FIGURE_3, figure_3(), strict=True)
    ]
    save_rows(third, out / "tables_figure_3.csv")
    worst = max(abs(row["printed"] - row["mean_difference_of_table_8"]) for row in third)
    print(f"GGIoU Figure 3 is the mean difference of Table 8, at most {worst:.1e} off")
