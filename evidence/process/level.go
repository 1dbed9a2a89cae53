package process

import "fmt"

// A Level says how well an application is known. Greater is stronger; the zero value
// is no level, below all.
type Level int

// The levels. docs/adversaries.md says what each does not defend against.
const (
	Peer     Level = iota + 1 // executable, path and user by the kernel, from the connection's pidfd
	Measured                  // the read-only memory was compared with the executable
	Launched                  // started sealed: no other code ever ran in the process
)

var levels = [...]string{"none", "peer", "measured", "launched"}

// String returns the level's name: peer, measured, launched; none for any other value.
func (l Level) String() string {
	if l < Peer || l > Launched {
		return levels[0]
	}
	return levels[l]
}

// ParseLevel reads a name that String gives for a level.
func ParseLevel(s string) (Level, error) {
	for l := Peer; l <= Launched; l++ {
		if levels[l] == s {
			return l, nil
		}
	}
	return 0, fmt.Errorf("is %.40q, and not peer, measured or launched", s)
}

// MarshalText returns the name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what ParseLevel reads.
func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}
