// Package ima parses the Linux kernel's measurement list
// (securityfs/ima/binary_runtime_measurements) and replays it against the register
// that a quote proves. It returns the entries that the quote covers, and no other.
//
// The list is read after the quote, so it may hold more than was quoted: Open finds
// the shortest prefix that leads to the quoted value and drops the rest.
//
// # What a replay proves, and what not
//
// The kernel extends the register by the digest of an entry's template data, in
// each bank by the bank's own hash. The list gives SHA-1 of it only, so the digests
// are computed here. Proven is therefore the template data of each covered entry:
// digest and path of a file, signature. Not proven are:
//
//   - the template's name. It tells the layout of the old template "ima" from that
//     of all others, which does not help a liar: a record of the others has a zero
//     byte before its path, which the old one's path cannot have, and the old one
//     reads as another only if a SHA-1 digest starts with twelve chosen bytes.
//     Nothing else here depends on the name, so an executed file cannot pass for a
//     measured buffer by calling it ima-buf.
//   - everything in a violation entry. The kernel extends all ones for it, so the
//     list may say anything of its path.
//   - the order against entries of other registers.
//
// Lists are little-endian, as x86 and arm64 write them.
package ima
