"""How people sign in: passwords, second factor, OpenID."""
