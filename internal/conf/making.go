package conf

import (
	"os"
	"path/filepath"
)

// Making notes what stands in a directory that is about to be filled. What it returns
// removes everything else from there, and the directory too if there was none: for who
// gives up halfway, so that the next attempt begins where this one did.
func Making(dir string) (undo func()) {
	before := map[string]bool{}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		before[e.Name()] = true
	}
	return func() {
		if err != nil { // there was no directory, or nobody may read it
			if os.IsNotExist(err) {
				os.RemoveAll(dir)
			}
			return
		}
		now, _ := os.ReadDir(dir) // what can not be read is not removed
		for _, e := range now {
			if !before[e.Name()] {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	}
}
