// Package deb proves what a Debian package contains, from the archive's signature
// down to each file, and reads a host's list of packages.
//
// The chain has four links, each a function here, each of bytes that the caller
// fetched from anywhere:
//
//	VerifyRelease   InRelease, signed by a key of the given keyring, at a given time
//	Release.Index   a Packages file, by the size and SHA-256 that InRelease states
//	Index.Packages  a package's size and SHA-256, by the Packages file
//	Unpack          the package's files, by the size and SHA-256 that Packages states
//
// Trusted are the keyring and the time; mirrors, caches and the network are not.
// MD5 and SHA-1 are not read anywhere. A host's own dpkg database counts as a list
// of names and versions ([ParseStatus]): its md5sums are never looked at.
package deb
