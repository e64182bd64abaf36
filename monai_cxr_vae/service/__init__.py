"""A DICOM node that runs by itself: films come by C-STORE, results go back by C-STORE and STOW-RS, nothing is lost."""
