package admit

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// LeaseSeconds is the setting that says how long a lease lasts.
const LeaseSeconds = "lease-seconds"

// EntryVersion is the setting that says up to which version entries count. Members
// raise it once all nodes run a build that knows the version; it is never lowered.
const EntryVersion = "entry-version"

// FoundingVersion is the setting of the genesis entry by which a new domain has entries of
// all versions that this build knows.
func FoundingVersion() string { return EntryVersion + "=" + strconv.Itoa(receipt.Version) }

// bounds are what can be set, each with its least, its most, and what holds without it.
var bounds = map[string]Bounds{
	LeaseSeconds:   {5, 86400, 60},
	ArchiveDays:    {0, 36500, 365},
	ArchiveReaders: {0, 64, 0},
	EntryVersion:   {4, receipt.Version, 3},
}

// Bounds says what a setting can be set to, and what holds where it never was.
type Bounds struct{ Least, Most, Normal uint64 }

// Settings returns the name and bounds of every setting.
func Settings() map[string]Bounds { return maps.Clone(bounds) }

// Setting sets a number of the domain. The subject is the setting's name.
type Setting struct {
	Domain keystead.Digest
	Name   string
	Base   uint64
	Value  uint64

	Members []string // of archive-readers alone: who may, ascending
}

func (x *Setting) statement() Statement {
	s := Statement{key.KindSetting, x.Domain, x.Name, x.Base, []Field{{"value", strconv.FormatUint(x.Value, 10)}}}
	for _, m := range x.Members {
		s.Fields = append(s.Fields, Field{"member", m})
	}
	return s
}

func readSetting(s Statement) (Setting, error) {
	r := s.reader()
	x := Setting{Domain: s.Domain, Name: s.Subject, Base: s.Base, Value: r.number("value"), Members: readMembers(r)}
	if len(x.Members) > 0 && x.Name != ArchiveReaders {
		r.fail("member", "has no place in the setting %.40s", x.Name)
	}
	return x, r.end()
}

// Text returns the text that members sign.
func (x *Setting) Text() ([]byte, error) { return checked(x.statement(), readSetting) }

// ParseSetting reads the text.
func ParseSetting(text []byte) (Setting, error) { return parsed(key.KindSetting, text, readSetting) }

// OpenSetting returns the setting that the members signed; see Case.Open.
func OpenSetting(signed []byte, c Case) (Setting, error) {
	return opened(c, key.KindSetting, signed, readSetting)
}

// JudgeSetting endorses a setting of a known name that is within its bounds. It
// writes setting/NAME, the number.
func JudgeSetting(state State, c Case, signed []byte) (Ruling, error) {
	x, err := OpenSetting(signed, c)
	if err != nil {
		return Ruling{}, err
	}
	b, ok := bounds[x.Name]
	switch {
	case !ok:
		return Ruling{}, deny(keystead.ReasonRuleFailed, "setting", "the name of a setting", x.Name)
	case x.Value < b.Least || x.Value > b.Most:
		return Ruling{}, deny(keystead.ReasonRuleFailed, "setting "+x.Name, fmt.Sprintf("%d to %d", b.Least, b.Most), strconv.FormatUint(x.Value, 10))
	}
	if x.Name == EntryVersion {
		if err := x.judgeVersion(state); err != nil {
			return Ruling{}, err
		}
	}
	value := strconv.AppendUint(nil, x.Value, 10)
	if x.Name == ArchiveReaders {
		if value, err = x.judgeReaders(c.Roster); err != nil {
			return Ruling{}, err
		}
	}
	return Ruling{Content: x.statementText(), Writes: []Write{{Key: settingKey(x.Name), Value: value}}}, nil
}

// judgeVersion refuses to go back behind a version: entries of it may be in the log.
func (x *Setting) judgeVersion(state State) error {
	v, err := state.Judged(settingKey(EntryVersion))
	if err != nil {
		return err
	}
	founding, err := state.Founding(EntryVersion)
	if err != nil {
		return err
	}
	if now := ParseEntryVersion(string(v.Data), founding); x.Value < uint64(now) {
		return deny(keystead.ReasonRuleFailed, "setting "+x.Name, fmt.Sprintf("%d or more, which is in force", now), strconv.FormatUint(x.Value, 10))
	}
	return nil
}

// ParseEntryVersion returns the entry version in force by the judged and the founding
// value of the setting: the greater one, whether this build knows it or not; 3 without either.
func ParseEntryVersion(judged, founding string) uint8 {
	in := uint64(bounds[EntryVersion].Normal)
	for _, v := range []string{judged, founding} {
		if n, err := strconv.ParseUint(v, 10, 8); err == nil {
			in = max(in, n)
		}
	}
	return uint8(in)
}

func (x *Setting) statementText() []byte { s := x.statement(); return s.Text() }

// LeaseDuration returns how long a lease lasts: the setting lease-seconds, as judged,
// or as the genesis entry has it, or 60 s.
func LeaseDuration(s State) (time.Duration, error) {
	v, err := s.Judged(settingKey(LeaseSeconds))
	if err != nil {
		return 0, err
	}
	founding, err := s.Founding(LeaseSeconds)
	return ParseLeaseSeconds(string(v.Data), founding), err
}

// ParseLeaseSeconds returns the first of the values that is within the bounds of the
// setting lease-seconds, and otherwise 60 s.
func ParseLeaseSeconds(values ...string) time.Duration {
	return time.Duration(Holds(LeaseSeconds, values...)) * time.Second
}

// Holds returns what a setting is: the first of the values that is within its bounds, and
// otherwise what holds without it.
func Holds(name string, values ...string) uint64 {
	b := bounds[name]
	for _, v := range values {
		if n, err := strconv.ParseUint(v, 10, 32); err == nil && n >= b.Least && n <= b.Most {
			return n
		}
	}
	return b.Normal
}
