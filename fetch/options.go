package fetch

import (
	"path/filepath"
	"time"

	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// Installed returns what dpkg says is installed below root ("": /). It is that
// machine's own word.
func Installed(root string) ([]deb.Name, error) {
	raw, err := readFile(filepath.Join(root, "/var/lib/dpkg/status"), maxStatus)
	if err != nil {
		return nil, err
	}
	return deb.ParseStatus(raw)
}

// maxStatus bounds a dpkg status file, in bytes.
const maxStatus = 32 << 20

// Options say what to build a set of, and from what.
type Options struct {
	Packages  []deb.Name       // whose files to take, such as ParseStatus gives
	Selection refval.Selection // which of their files; "": all
	At        time.Time        // time of judgement of signatures and dates; zero: now

	Root    string   // where apt's configuration, keys, lists and archives lie, so whoever wrote it is trusted; "": /
	Sources []Source // in place of those that apt is configured with
	Keyring []byte   // the only keys that count, in place of those that apt is configured with

	// Vendors, where they name one of Debian's packages, are who may sign, and which
	// packages count: keys and Signed-By of apt's sources are then disregarded.
	Vendors []refval.Vendor

	Cache    string         // directory; "": keystead in the user's cache directory
	Offline  bool           // use apt's lists and archives and the cache only
	Fresh    bool           // pass apt's lists over
	Workers  int            // packages at once; 0: by the number of processors
	Progress func(Progress) // told of each step, one call at a time; may be nil

	// Keep is handed the bytes of all that goes in, in pieces of at most 64 MiB, one
	// call at a time, and Result.Recipe then names them; may be nil. With it, a
	// package's file that can not be had is an error.
	Keep func(piece []byte) error
}

// Progress is a step of Build.
type Progress struct {
	Stage string // "indexes", then "packages"
	Done  int
	Total int
	Name  string // what was just done
}

// Result is a set and what was not used for it.
type Result struct {
	Set     *refval.Set
	Skipped []Skipped   // in order of the sources
	Recipe  *deb.Recipe // of the set, if Options.Keep was given

	Unfetched []Unfetched // in the order of names
}

// Unfetched is a package that a signed index offers and whose file could not be had.
type Unfetched struct {
	Package deb.Name
	Err     error
}

// Skipped is a source that could not be verified or reached. Packages that only it
// offers are missing in the set's header.
type Skipped struct {
	Source Source
	Err    error
}
