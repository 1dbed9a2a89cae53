package admit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// LeaseSeconds is the setting that says how long a lease lasts.
const LeaseSeconds = "lease-seconds"

// bounds are what can be set, each with its least, its most, and what holds without it.
var bounds = map[string]struct{ least, most, normal uint64 }{
	LeaseSeconds: {5, 86400, 60},
}

// Setting sets a number of the domain. The subject is the setting's name.
type Setting struct {
	Domain keystead.Digest
	Name   string
	Base   uint64
	Value  uint64
}

func (x *Setting) statement() Statement {
	return Statement{key.KindSetting, x.Domain, x.Name, x.Base, []Field{{"value", strconv.FormatUint(x.Value, 10)}}}
}

func readSetting(s Statement) (Setting, error) {
	r := s.reader()
	x := Setting{s.Domain, s.Subject, s.Base, r.number("value")}
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
	case x.Value < b.least || x.Value > b.most:
		return Ruling{}, deny(keystead.ReasonRuleFailed, "setting "+x.Name, fmt.Sprintf("%d to %d", b.least, b.most), strconv.FormatUint(x.Value, 10))
	}
	return Ruling{Content: x.statementText(), Writes: []Write{{Key: settingKey(x.Name), Value: strconv.AppendUint(nil, x.Value, 10)}}}, nil
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
	b := bounds[LeaseSeconds]
	for _, v := range values {
		if n, err := strconv.ParseUint(v, 10, 32); err == nil && n >= b.least && n <= b.most {
			return time.Duration(n) * time.Second
		}
	}
	return time.Duration(b.normal) * time.Second
}
