package process

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
)

// Bounds of a process's list of mappings.
const (
	maxMaps     = 8 << 20 // bytes of /proc/PID/maps
	maxMappings = 32 << 10
)

// A vma is one mapping of a process, as /proc/PID/maps has it (proc_pid_maps(5)).
type vma struct {
	start, end  uint64
	permissions string // rwxp
	offset      uint64
	inode       uint64
	name        string
}

func (v vma) executable() bool { return v.permissions[2] == 'x' }
func (v vma) writable() bool   { return v.permissions[1] == 'w' }
func (v vma) private() bool    { return v.permissions[3] == 'p' }

// at is where the mapping's file is under /proc/PID.
func (v vma) at() string { return fmt.Sprintf("map_files/%x-%x", v.start, v.end) }

func (v vma) String() string {
	name := v.name
	if name == "" {
		name = "anonymous memory"
	}
	return fmt.Sprintf("%.256q, %s at %x", name, v.permissions, v.start)
}

// maps returns the text of the list, and what it says.
func (p *Process) maps() (string, []vma, error) {
	b, err := p.read("maps", maxMaps)
	if err != nil {
		return "", nil, err
	}
	var out []vma
	for line := range strings.Lines(string(b)) {
		v, err := parseVMA(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return "", nil, fmt.Errorf("process %d: /proc/PID/maps: %w", p.pid, err)
		}
		if out = append(out, v); len(out) > maxMappings {
			return "", nil, p.deny(keystead.ReasonBinaryUnsuitable, fmt.Sprintf("a process of at most %d mappings", maxMappings), "more")
		}
	}
	if len(out) == 0 {
		return "", nil, p.gone() // a process that ends has no memory any more
	}
	return string(b), out, nil
}

// parseVMA reads "START-END PERMISSIONS OFFSET DEVICE INODE  NAME".
func parseVMA(line string) (v vma, err error) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) != 6 || len(fields[1]) != 4 {
		return v, fmt.Errorf("%.80q is no mapping", line)
	}
	start, end, _ := strings.Cut(fields[0], "-")
	for _, f := range []struct {
		to   *uint64
		text string
		base int
	}{{&v.start, start, 16}, {&v.end, end, 16}, {&v.offset, fields[2], 16}, {&v.inode, fields[4], 10}} {
		if *f.to, err = strconv.ParseUint(f.text, f.base, 64); err != nil {
			return v, fmt.Errorf("%.80q is no mapping: %w", line, err)
		}
	}
	v.permissions, v.name = fields[1], strings.TrimLeft(fields[5], " ")
	if v.start >= v.end {
		return v, fmt.Errorf("%.80q is no mapping", line)
	}
	return v, nil
}
