"""Rules whose limits follow from each truth's own candidates: ATSS, SimOTA and task-aligned assignment."""
