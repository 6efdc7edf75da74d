"""Reading and writing files: tables of columns, arrays of more axes."""
