package rpm

import (
	"fmt"
	"iter"

	"github.com/keystead/keystead"
)

// MaxDatabase bounds a database file, in bytes.
const MaxDatabase = 1 << 30

// Places are where rpm keeps its database below a machine's root, the newest first.
var Places = []string{
	"usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite",
	"usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages.db",
	"usr/lib/sysimage/rpm/Packages", "var/lib/rpm/Packages",
}

// Headers yields the header blobs of a database, and stops after an error, a
// *keystead.FormatError. The format, sqlite, ndb or Berkeley DB's hash, is told by its
// magic. Journal is sqlite's write-ahead log beside the file, or nil. Blobs may alias
// the database. A database of which a page is used twice is refused, so the work is
// bounded by its size.
func Headers(database, journal []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if len(database) > MaxDatabase {
			yield(nil, databaseError("rpmdb", 0, "whole", "is %d bytes long, at most %d are accepted", len(database), MaxDatabase))
			return
		}
		var err error
		switch {
		case isSQLite(database):
			err = sqliteHeaders(database, journal, yield)
		case isNDB(database):
			err = ndbHeaders(database, yield)
		case isBDB(database):
			err = bdbHeaders(database, yield)
		default:
			err = databaseError("rpmdb", 0, "magic", "is %.16q: neither sqlite, nor ndb, nor a hash of Berkeley DB", database[:min(16, len(database))])
		}
		if err != nil && err != errStop {
			yield(nil, err)
		}
	}
}

// errStop ends a walk whose consumer wants no more.
var errStop = fmt.Errorf("stopped")

func databaseError(format string, offset int, field, problem string, args ...any) error {
	return &keystead.FormatError{Format: format, Offset: int64(offset), Field: field, Problem: fmt.Sprintf(problem, args...)}
}

// pages are a database's, each of which may be used once.
type pages struct {
	format string
	data   []byte
	size   int
	first  int            // number of the page at offset 0
	over   map[int][]byte // pages that a journal has newer
	used   map[int]bool
}

// count is one more than the highest page number.
func (p *pages) count() int { return p.first + len(p.data)/p.size }

// get returns a page for the first time it is asked for.
func (p *pages) get(number int) ([]byte, error) {
	newer, ok := p.over[number]
	if !ok && (number < p.first || number >= p.count()) {
		return nil, databaseError(p.format, 0, "page", "%d is not there; there are %d", number, p.count())
	}
	at := (number - p.first) * p.size
	if p.used[number] {
		return nil, databaseError(p.format, at, "page", "%d is used twice", number)
	}
	p.used[number] = true
	if ok {
		return newer, nil
	}
	return p.data[at : at+p.size], nil
}
