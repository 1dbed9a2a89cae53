package keyring

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/lines"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
)

// Bounds of a specification.
const (
	MaxHold     = 86400      // seconds
	MaxEvidence = 31_536_000 // seconds
	maxSpec     = policy.MaxText + 4096
)

// Levels of an application that asks for a key, in ascending order: what was found out
// about it.
const (
	LevelNone     = "none"     // no application: the host itself
	LevelPeer     = "peer"     // pidfd, path, digest, uid
	LevelMeasured = "measured" // its memory was measured
	LevelLaunched = "launched" // sealed launch
)

var levels = []string{LevelNone, LevelPeer, LevelMeasured, LevelLaunched}

// Spec is what members want of a key: which version there is to be, and to whom it is
// released. The zero value releases to nobody.
type Spec struct {
	Domain   keystead.Digest
	Name     string
	Base     uint64   // version of the specification before, on the ledger; 0 for none
	Version  uint64   // wanted: rounds make versions until there is this one
	Level    string   // the least that an application must have
	Hold     uint64   // seconds that a holder may go on when the domain can not be reached
	Evidence uint64   // age in seconds that the evidence of a lease may have; 0: as long as the lease
	Service  *Service // nil: an agreed secret, for whatever the policy accepts (version 1)
	Policy   []byte   // text of the release policy (docs/spec/policy.md)
}

// Service is what version 2 of a specification adds: a key that is for one service.
type Service struct {
	Algorithm   Algorithm
	Use         Use
	Application string // what a name begins with, by whole words: "billing" is for billing and billing/…; "*": any
}

// Algorithm returns what the key is for.
func (s *Spec) Algorithm() Algorithm {
	if s.Service == nil {
		return AlgorithmSecret
	}
	return s.Service.Algorithm
}

// SpecKinds are the kinds of notes that specify a key.
func SpecKinds() []key.Kind { return []key.Kind{key.KindKeyspec, key.KindServiceKey} }

// Text returns the specification as members sign it.
func (s *Spec) Text() ([]byte, error) {
	kind := key.KindKeyspec
	if s.Service != nil {
		kind = key.KindServiceKey
	}
	b := fmt.Appendf(nil, "%s\ndomain %s\nsubject %s\nbase %d\nversion %d\nlevel %s\nhold-seconds %d\nevidence-seconds %d\n",
		kind, receipt.Origin(s.Domain), s.Name, s.Base, s.Version, s.Level, s.Hold, s.Evidence)
	if v := s.Service; v != nil {
		b = fmt.Appendf(b, "algorithm %s\nuse %s\napplication %s\n", v.Algorithm, v.Use, v.Application)
	}
	b = append(append(b, "policy\n"...), s.Policy...)
	_, err := ParseSpec(b)
	return b, err
}

// ParseSpec reads a specification and compiles its policy.
func ParseSpec(text []byte) (Spec, error) {
	s, err := readSpec(text)
	if err == nil {
		_, err = policy.Compile(s.Policy, Vocabulary())
	}
	if err != nil {
		return Spec{}, err
	}
	return s, nil
}

// readSpec reads a specification whose policy was compiled before, when nodes endorsed it.
func readSpec(text []byte) (s Spec, err error) {
	p := lines.New("key specification", text)
	if len(text) > maxSpec {
		p.Fail("whole", "is %d bytes long, at most %d are accepted", len(text), maxSpec)
	}
	first := key.Kind(p.Line("first line"))
	if p.Err() == nil && first != key.KindKeyspec && first != key.KindServiceKey {
		p.Fail("first line", "is %.40q, want %s or %s", first, key.KindKeyspec, key.KindServiceKey)
	}
	s.Domain = p.Domain()
	if s.Name = p.Value("subject"); p.Err() == nil && !ValidName(s.Name) {
		p.Fail("subject", "%.64q is not 1 to %d of a-z, 0-9, dot and dash", s.Name, MaxName)
	}
	s.Base, s.Version = p.Number("base", 0, 1<<62), p.Number("version", 1, 1<<62)
	if s.Level = p.Value("level"); p.Err() == nil && !slices.Contains(levels, s.Level) {
		p.Fail("level", "%.40q is not one of %v", s.Level, levels)
	}
	s.Hold, s.Evidence = p.Number("hold-seconds", 0, MaxHold), p.Number("evidence-seconds", 0, MaxEvidence)
	if first == key.KindServiceKey {
		s.Service = readService(p)
	}
	s.Policy = p.Policy()
	if p.Err() != nil {
		return Spec{}, p.Err()
	}
	return s, nil
}

// service reads what version 2 adds. Only a key that is for no application may be had by
// a host itself.
func readService(p *lines.Reader) *Service {
	v := &Service{Algorithm: Algorithm(p.Value("algorithm"))}
	if p.Err() == nil && !knownAlgorithm(v.Algorithm) {
		p.Fail("algorithm", "%.40q is not one of %v", v.Algorithm, Algorithms())
	}
	if v.Use = Use(p.Value("use")); p.Err() == nil && v.Use != UseRelease && v.Use != UseDerive {
		p.Fail("use", "%.40q is not %s or %s", v.Use, UseRelease, UseDerive)
	}
	if v.Application = p.Value("application"); p.Err() == nil && v.Application != "*" && !validApplication(v.Application) {
		p.Fail("application", "%.140q is not *, or 1 to %d bytes: words of a-z 0-9 . _ - that do not begin with a dot, parted by /", v.Application, maxApplication)
	}
	return v
}

const maxApplication = 128 // bytes; as a name in a program's certificate

func validApplication(s string) bool {
	if len(s) > maxApplication {
		return false
	}
	for word := range strings.SplitSeq(s, "/") {
		if word == "" || word[0] == '.' || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return false
		}
	}
	return true
}

// admits reports whether an application of that name may have the key.
func (v *Service) admits(name string) bool {
	return v.Application == "*" || name == v.Application || strings.HasPrefix(name, v.Application+"/")
}

// JudgeSpec endorses a specification that as many members signed as the roster demands,
// on the version before that the ledger has, and returns what it writes.
func JudgeSpec(st State, roster *receipt.Roster, domain keystead.Digest, subject string, base uint64, signed []byte) ([]Write, error) {
	text, by, err := key.Open(signed, key.OneOf(signed, SpecKinds()...), roster.Members...)
	if err != nil {
		return nil, err
	}
	where := "key specification " + subject
	if len(by) < roster.Threshold {
		return nil, deny(keystead.ReasonThresholdMissing, where, fmt.Sprintf("signatures of %d members", roster.Threshold), strconv.Itoa(len(by)))
	}
	s, err := ParseSpec(text)
	if err != nil {
		return nil, err
	}
	newest, err := Newest(st, s.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Domain != domain:
		return nil, deny(keystead.ReasonDomainMismatch, where, receipt.Origin(domain), receipt.Origin(s.Domain))
	case s.Name != subject:
		return nil, deny(keystead.ReasonRuleFailed, where, subject, s.Name)
	case s.Base != base:
		return nil, deny(keystead.ReasonSubjectChanged, where, fmt.Sprintf("base %d", base), strconv.FormatUint(s.Base, 10))
	case s.Version > newest.Number+1:
		return nil, deny(keystead.ReasonRuleFailed, where, fmt.Sprintf("a version of at most %d, for one round makes one", newest.Number+1), strconv.FormatUint(s.Version, 10))
	}
	if newest.Number > 0 {
		before, err := SpecOf(st, s.Name)
		if err != nil {
			return nil, err
		}
		if was, is := before.Algorithm(), s.Algorithm(); was != is {
			return nil, deny(keystead.ReasonRuleFailed, where, "algorithm "+string(was)+", which the key has from its first version on", string(is))
		}
	}
	return []Write{{KeyspecType + "/" + s.Name, text}}, nil
}
