// Package rpm reads a host's rpm database and proves what its packages contain.
//
// A database in any of its three formats ([Headers]: sqlite, ndb, Berkeley DB) is a list
// of package headers. Each carries, byte for byte, the header that the vendor signed,
// and beside it what rpm noted at installation ([ParseHeader]). [Header.Verify] rebuilds
// the signed bytes, holds them against the header's own digest and the vendor's OpenPGP
// signature, and [Header.Files] takes names, modes and digests from these bytes alone.
//
// Trusted are the keyring and the time that the caller gives. The database is the
// host's word: what it edits, adds or hides in a header is found, each with its own
// reason; what it leaves out proves nothing, and a genuine header of a package that
// is not installed proves no more than that the vendor made it, which is why policies
// state floors ([Compare]).
package rpm
