"""What is done after a fence that succeeded, by setting: DLM, Pacemaker, and executables of the site's own."""
