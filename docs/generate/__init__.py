"""Makes the pages of the site: those of docs/, and those that the registries, the settings and results/ decide."""
