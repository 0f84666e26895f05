"""Lightning callbacks: pictures, tables and the progress bar."""
