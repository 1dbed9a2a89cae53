package admit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// The settings of the archive.
const (
	ArchiveDays    = "archive-days"    // how long archived evidence is kept; 0 for none
	ArchiveReaders = "archive-readers" // how many of which members may read it together
)

// ArchiveTime returns how long evidence is archived: the setting archive-days, as judged,
// or as the genesis entry has it, or 365 days. 0 is not at all.
func ArchiveTime(s State) (time.Duration, error) {
	v, err := s.Judged(settingKey(ArchiveDays))
	if err != nil {
		return 0, err
	}
	founding, err := s.Founding(ArchiveDays)
	return time.Duration(Holds(ArchiveDays, string(v.Data), founding)) * 24 * time.Hour, err
}

// Readers are the members who may read archived evidence.
type Readers struct {
	Need  int      // how many of them have to sign
	Names []string // of members, ascending
}

// ReadersOf returns whom the setting archive-readers names; nobody without it.
func ReadersOf(s State) (Readers, error) {
	v, err := s.Judged(settingKey(ArchiveReaders))
	if err != nil || v.Version == 0 {
		return Readers{Need: 1}, err
	}
	words := strings.Fields(string(v.Data))
	need, err := strconv.Atoi(words[0])
	return Readers{Need: need, Names: words[1:]}, err
}

// String returns whom the setting names, for people.
func (r Readers) String() string {
	if len(r.Names) == 0 {
		return "members whom the setting archive-readers names: nobody"
	}
	return fmt.Sprintf("%d of %s", r.Need, strings.Join(r.Names, ", "))
}

// judge returns what the setting archive-readers is set to: how many, and who.
func (x *Setting) judgeReaders(roster *receipt.Roster) ([]byte, error) {
	known := map[string]bool{}
	for _, m := range roster.Members {
		known[m.Name()] = true
	}
	for _, name := range x.Members {
		if !known[name] {
			return nil, deny(keystead.ReasonRuleFailed, "setting "+x.Name, "names of members", name)
		}
	}
	if len(x.Members) > 0 && (x.Value < 1 || x.Value > uint64(len(x.Members))) || len(x.Members) == 0 && x.Value != 0 {
		return nil, deny(keystead.ReasonRuleFailed, "setting "+x.Name, fmt.Sprintf("1 to %d, the members that it names; 0 for nobody", len(x.Members)), strconv.FormatUint(x.Value, 10))
	}
	return []byte(strings.Join(append([]string{strconv.FormatUint(x.Value, 10)}, x.Members...), " ")), nil
}

// readMembers takes member fields, ascending.
func readMembers(r *reader) (out []string) {
	for r.is("member") {
		name := r.value("member")
		if strings.ContainsAny(name, " \t") {
			r.fail("member", "%.80q is not a member's name", name)
		}
		if n := len(out); n > 0 && out[n-1] >= name {
			r.fail("member", "%.80q is out of order", name)
		}
		out = append(out, name)
	}
	return slices.Clip(out)
}
