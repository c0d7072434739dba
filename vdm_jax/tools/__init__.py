"""Tools around models: compilation ahead of time, the doctor, user studies."""
