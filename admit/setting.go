package admit

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// LeaseSeconds is the setting that says how long a lease lasts.
const LeaseSeconds = "lease-seconds"

// bounds are what can be set, each with its least, its most, and what holds without it.
var bounds = map[string]Bounds{
	LeaseSeconds:   {5, 86400, 60},
	ArchiveDays:    {0, 36500, 365},
	ArchiveReaders: {0, 64, 0},
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
func JudgeSetting(_ State, c Case, signed []byte) (Ruling, error) {
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
	value := strconv.AppendUint(nil, x.Value, 10)
	if x.Name == ArchiveReaders {
		if value, err = x.judgeReaders(c.Roster); err != nil {
			return Ruling{}, err
		}
	}
	return Ruling{Content: x.statementText(), Writes: []Write{{Key: settingKey(x.Name), Value: value}}}, nil
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
