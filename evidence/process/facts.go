package process

import (
	"strconv"

	"github.com/keystead/keystead"
)

// Facts are what an agent found out about a process of its own machine: the word of
// that agent, as good as the evidence for the machine.
type Facts struct {
	Level  Level           `json:"level"`
	Path   string          `json:"path"`   // of the executable, as the agent sees it
	Digest keystead.Digest `json:"digest"` // of the executable's content
	UID    uint32          `json:"uid"`    // effective, when it connected
}

// String gives the facts on one line.
func (f Facts) String() string {
	return f.Level.String() + " " + f.Path + " " + f.Digest.String() + " uid " + strconv.FormatUint(uint64(f.UID), 10)
}
