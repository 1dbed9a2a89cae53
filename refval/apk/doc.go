// Package apk reads Alpine's packages, from a repository's signature down to each
// file, and a host's list of packages.
//
//	OpenIndex       APKINDEX.tar.gz, signed by one of the given RSA keys
//	Index.Packages  a package's name, version, size and the checksum of its control part
//	Unpack          the package: its control part by that checksum, its data by the SHA-256
//	                that the control part states, and the files in it
//
// Trusted are the keys that the caller gives. The index names a package's control part by
// SHA-1, as Alpine does (Q1...); that is never sufficient, so a package must be signed as
// well, by one of the keys, with RSA over SHA-256 (.SIGN.RSA256.). Signatures
// over SHA-1 (.SIGN.RSA.) are refused as weak.
package apk
