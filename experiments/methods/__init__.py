"""Every way to choose and to update weights side by side, with what the field would use in their place."""
