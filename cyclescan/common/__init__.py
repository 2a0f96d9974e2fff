"""What every room uses and what knows nothing of images: errors, files, the command line, HTML pages."""
