package collect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval/rpm"
)

// rpmMemory keeps the packed headers for as long as the database stays as it is: it is
// read for each piece of evidence, and packing costs more than all else together.
type rpmMemory struct {
	mu     sync.Mutex
	state  string
	packed []byte
}

// rpmHeaders reads the machine's rpm database, of whatever format, and packs its
// headers as bundles carry them; nil if there is none.
func (m Machine) rpmHeaders(memory *rpmMemory) ([]byte, Sight, error) {
	s := Sight{What: "rpm database", Where: filepath.Join(m.Root, rpm.Places[1])}
	for _, place := range rpm.Places {
		name := filepath.Join(m.Root, place)
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
			continue
		}
		s.Where = name
		var packed []byte
		if err == nil {
			packed, err = memory.pack(name, info)
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			s.Detail, s.Hint = "may not be read by this user", "run as root"
		case err != nil:
			s.Detail = err.Error()
		default:
			s.Found, s.Detail = true, fmt.Sprintf("%d bytes, of which %d go into a bundle", info.Size(), len(packed))
			return packed, s, nil
		}
		return nil, s, fmt.Errorf("%s: %w", s.What, err)
	}
	s.Detail, s.Hint = "is not there", "this is not a machine whose packages are rpm's"
	return nil, s, nil
}

// pack packs the database, unless it did so before and nothing changed since. A nil
// memory remembers nothing.
func (m *rpmMemory) pack(name string, info os.FileInfo) ([]byte, error) {
	wal := name + "-wal" // sqlite's; other formats have none
	state := fmt.Sprint(name, info.Size(), info.ModTime().UnixNano())
	if j, err := os.Stat(wal); err == nil {
		state += fmt.Sprint(" ", j.Size(), j.ModTime().UnixNano())
	}
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.state == state {
			return m.packed, nil
		}
	}
	database, err := readBounded(name, rpm.MaxDatabase)
	if err != nil {
		return nil, err
	}
	journal, err := readBounded(wal, rpm.MaxDatabase)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	packed, err := rpm.Pack(rpm.Headers(database, journal))
	if err == nil && len(packed) > evidence.MaxPackages-64 {
		err = fmt.Errorf("%s packs to %d bytes, at most %d go into a bundle", name, len(packed), evidence.MaxPackages-64)
	}
	if err != nil {
		return nil, err
	}
	if m != nil {
		m.state, m.packed = state, packed
	}
	return packed, nil
}
