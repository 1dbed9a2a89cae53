package replica

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A node that is given a fresh id begins with an empty store. The one that it had before is
// set aside until the node votes again: who gave the id may have lied, and if the group does
// not come back, that store may be all there is. See [Recover], which takes it in its place.

// asideDir is where the store of a directory is set aside.
func asideDir(dir string) string { return dir + ".before" }

// setAside sets the store aside, and opens an empty one in its place. One that was set aside
// before stays: what was there since never voted.
func (n *Node) setAside() error {
	if n.store.ID() == 0 {
		return nil
	}
	opts := n.store.opts
	if err := n.store.Close(); err != nil {
		return err
	}
	kept, err := exists(opts.FS, asideDir(opts.Dir))
	switch {
	case err != nil:
	case kept:
		err = opts.FS.RemoveAll(opts.Dir)
	default:
		err = opts.FS.Rename(opts.Dir, asideDir(opts.Dir))
	}
	if err == nil {
		err = syncDir(opts.FS, opts.FS.PathDir(opts.Dir))
	}
	if err != nil {
		return fmt.Errorf("%s is not set aside: %w", opts.Dir, err)
	}
	n.log.Warn("the store of before is kept until this node votes again", "directory", asideDir(opts.Dir))
	n.store, err = OpenStore(opts)
	return err
}

// voted removes the store that was set aside, once this node is a voter.
func (n *Node) voted(m *Membership) {
	if n.settled || !slices.Contains(m.Voters(), n.store.ID()) {
		return
	}
	n.settled = true
	fs, dir := n.store.opts.FS, asideDir(n.store.opts.Dir)
	if kept, err := exists(fs, dir); err == nil && !kept {
		return
	}
	if err := fs.RemoveAll(dir); err != nil {
		n.log.Warn("the store that was set aside is still there", "directory", dir, "because", err)
	}
}

func exists(fs vfs.FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Aside returns the directory of the store that a recovery goes on from: the one that was set
// aside, if the node has not voted since.
func Aside(fs vfs.FS, dir string) (string, error) {
	kept, err := exists(fs, asideDir(dir))
	if kept {
		dir = asideDir(dir)
	}
	return dir, err
}

// PutBack puts the store that was set aside back in its place.
func PutBack(fs vfs.FS, dir string) error {
	kept, err := exists(fs, asideDir(dir))
	if err != nil || !kept {
		return err
	}
	if err := errors.Join(fs.RemoveAll(dir), fs.Rename(asideDir(dir), dir)); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(dir))
}
