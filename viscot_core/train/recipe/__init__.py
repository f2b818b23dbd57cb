"""What a run is asked to do: a YAML file, validated, with the command line's options applied."""
