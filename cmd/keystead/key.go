package main

import "github.com/spf13/cobra"

// key: secrets that a domain's nodes agree on.
func (a *app) key() *cobra.Command {
	return a.noun("key", "Keys that a domain's nodes agree on",
		`A key of a domain is a secret that its nodes agreed on and release to hosts and their
applications.`,
		`  keystead key release storage --out storage.key`,
		a.keyRelease(),
	)
}
