"""Where the packages meet: settings become experiments, experiments become files. The scripts call this."""
