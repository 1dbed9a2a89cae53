// Package fetch brings in what reference values are made of, from apt's sources, and
// builds sets of them.
//
// It touches the world: the network, apt's lists and archives on this machine, and a
// cache. None of these is trusted: every byte goes through the chain of refval/deb,
// which starts at the sources' keyrings (Signed-By, or apt's trusted keys) or at one
// that the caller gives. What would weaken the chain is not honoured: trusted=yes,
// allow-insecure, check-valid-until=no. A .deb in apt's archive cache whose version no
// signed index offers has no chain and is not used.
//
// A mirror that holds back updates is seen only once its release is past Valid-Until,
// which Debian's main archive does not state: until then newer packages are missing and
// superseded ones stay known. The header of the set has the dates, for policies to judge.
//
// The cache (in the user's cache directory) keeps indexes, which are verified again at
// each use, and the digests that were computed from each .deb, under the .deb's own
// digest. The latter are checked against damage; whoever can write there as this user
// can forge them, as they could this program's output.
package fetch
