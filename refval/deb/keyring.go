package deb

import "github.com/keystead/keystead/internal/pgp"

// maxKeyring bounds a keyring file, in bytes.
const maxKeyring = pgp.MaxKeyring

// Keyring holds the OpenPGP certificates of those who may sign a repository. The
// zero value accepts nobody.
type Keyring = pgp.Keyring

// ParseKeyring reads certificates: binary, or armoured, of which a file may hold several.
func ParseKeyring(raw []byte) (Keyring, error) { return pgp.ParseKeyring(raw) }
