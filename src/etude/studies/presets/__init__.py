"""Plans that come with Etude, one file each; see `StudyPlan.preset`."""
