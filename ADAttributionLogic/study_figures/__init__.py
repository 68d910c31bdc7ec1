"""How studies show themselves, those of groups and those of trainings: tables, figures in one look, and the page."""
