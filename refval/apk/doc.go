// Package apk reads Alpine's packages, from a repository's signature down to each
// file, and a host's list of packages.
//
//	OpenIndex       APKINDEX.tar.gz, signed by one of the given RSA keys
//	Index.Packages  a package's name, version, size and the checksum of its control part
//	Unpack          the package: its control part by that checksum, its data by the SHA-256
//	                that the control part states, and the files in it
//
// Trusted are the keys that the caller gives. An index names a package's control part by
// SHA-256 (Q2...) or, as Alpine's own do, by SHA-1 (Q1...), which is never sufficient: then
// the package itself must be signed by one of the keys, with RSA over SHA-256
// (.SIGN.RSA256.). Signatures over SHA-1 (.SIGN.RSA.) are refused as weak.
package apk
