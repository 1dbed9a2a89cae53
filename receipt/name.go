package receipt

// ValidName reports whether a domain, node or host may have that name: 1 to 64 of
// a-z, 0-9, dot and dash.
func ValidName(s string) bool { return validName(s) }
