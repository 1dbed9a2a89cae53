// Package refval holds reference values: which files are known, by what digest,
// and who says so.
//
// A [Set] maps the SHA-256 digest of a file's content to the packages that ship
// it. Whoever builds one proves each digest first (the deb room does that from a
// distribution's signed indexes), so a set is as trustworthy as its builder: it is
// not signed itself but named by its digest, and its header records what it was
// built from. A set holds SHA-256 digests only, each of a strength that suffices:
// a match by MD5 or SHA-1 can not be expressed.
//
// A [CodeSet] is the second source: what no distribution packages, such as a
// domain's own programs, initrd images and kernel command lines, as a signed note.
// It is trusted as far as the keys that [OpenCodeSet] is given.
package refval
