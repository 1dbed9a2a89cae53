// Package pgp verifies OpenPGP signatures over bytes by the certificates of a keyring,
// for the rooms of refval that read what vendors sign (RFC 9580; for signatures of
// version 3, RFC 4880 5.2.2).
//
// Trusted are the certificates and the time that a caller gives. Signatures over MD5
// and SHA-1 count for nothing.
package pgp
