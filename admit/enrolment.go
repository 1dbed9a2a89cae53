package admit

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// The roles that a machine can be enrolled for.
const (
	RoleHost = "host"
	RoleNode = "node"
)

// Enrolment makes a machine a host of the domain, or ends that. The subject is the
// host's name.
type Enrolment struct {
	Domain  keystead.Digest
	Host    string // 1 to 64 of a-z, 0-9, dot and dash, as nodes' names
	Base    uint64
	Role    string          // host or node: which terms it is judged by
	EK      keystead.Digest // hardware identity: of the endorsement key's public key, PKIX DER; the claim key.ek
	Revoked bool            // ends the enrolment of that role and identity
}

func (e *Enrolment) statement() Statement {
	s := Statement{key.KindEnrolment, e.Domain, e.Host, e.Base, []Field{{"role", e.Role}, {"ek", e.EK.String()}}}
	if e.Revoked {
		s.Fields = append(s.Fields, Field{"revoked", "true"})
	}
	return s
}

func readEnrolment(s Statement) (Enrolment, error) {
	r := s.reader()
	e := Enrolment{Domain: s.Domain, Host: s.Subject, Base: s.Base, Role: r.oneOf("role", RoleHost, RoleNode), EK: r.digest("ek"), Revoked: r.flag("revoked")}
	if !receipt.ValidName(e.Host) || e.Host == "." || e.Host == ".." {
		r.fail("subject", "%.80q is not a host's name: 1 to 64 of a-z, 0-9, dot and dash, and no step in a path", e.Host) // SPIFFE-ID, 2.2: it is a segment of one
	}
	return e, r.end()
}

// Text returns the text that members sign.
func (e *Enrolment) Text() ([]byte, error) { return checked(e.statement(), readEnrolment) }

// ParseEnrolment reads the text.
func ParseEnrolment(text []byte) (Enrolment, error) {
	return parsed(key.KindEnrolment, text, readEnrolment)
}

// OpenEnrolment returns the enrolment that the members signed; see Case.Open.
func OpenEnrolment(signed []byte, c Case) (Enrolment, error) {
	return opened(c, key.KindEnrolment, signed, readEnrolment)
}

// Enrolled returns a host's last enrolment, perhaps a revoked one, and its version; the
// version is 0 if there was none.
func Enrolled(s State, host string) (Enrolment, uint64, error) {
	o, ok := s.(*once)
	if !ok {
		return readEnrolled(s, host)
	}
	if e, known := o.enrolled[host]; known {
		return e.enrolment, e.version, nil
	}
	e, version, err := readEnrolled(s, host)
	if err == nil {
		o.enrolled[host] = enrolledOnce{e, version}
	}
	return e, version, err
}

func readEnrolled(s State, host string) (Enrolment, uint64, error) {
	if !receipt.ValidName(host) {
		return Enrolment{}, 0, nil
	}
	v, err := s.Judged(enrolmentKey(host))
	if err != nil || v.Version == 0 {
		return Enrolment{}, 0, err
	}
	e, err := ParseEnrolment(v.Data)
	return e, v.Version, err
}

// HostOf returns the name that a hardware identity is enrolled under, or "".
func HostOf(s State, ek keystead.Digest) (string, error) {
	v, err := s.Judged(identityKey(ek))
	return string(v.Data), err
}

// JudgeEnrolment endorses an enrolment whose hardware identity no other name has,
// or one that revokes what is there. It writes enrolment/host/NAME, the
// statement's text, and enrolment/identity/EK, the name. Of two enrolments of one identity
// that were judged side by side the later one has the name: the other admits nobody.
func JudgeEnrolment(s State, c Case, signed []byte) (Ruling, error) {
	e, err := OpenEnrolment(signed, c)
	if err != nil {
		return Ruling{}, err
	}
	old, version, err := Enrolled(s, e.Host)
	if err != nil {
		return Ruling{}, err
	}
	other, err := HostOf(s, e.EK)
	if err != nil {
		return Ruling{}, err
	}
	where := "enrolment of " + e.Host
	switch {
	case e.Revoked && (version == 0 || old.Revoked):
		return Ruling{}, deny(keystead.ReasonHostUnenrolled, where, "an enrolment to revoke", "none")
	case e.Revoked && old.EK != e.EK:
		return Ruling{}, deny(keystead.ReasonHardwareForeign, where, "the identity that is enrolled, "+old.EK.String(), e.EK.String())
	case e.Revoked && old.Role != e.Role:
		return Ruling{}, deny(keystead.ReasonRuleFailed, where, "the role that is enrolled, "+old.Role, e.Role)
	case !e.Revoked && other != "" && other != e.Host:
		return Ruling{}, deny(keystead.ReasonHardwareTaken, where, "a hardware identity that no other host has", fmt.Sprintf("%v, which is %s", e.EK, other))
	}
	text, err := e.Text()
	if err != nil {
		return Ruling{}, err
	}
	out := Ruling{Content: text, Writes: []Write{{Key: enrolmentKey(e.Host), Value: text}}}
	if version != 0 && !old.Revoked && (e.Revoked || old.EK != e.EK) {
		named, err := HostOf(s, old.EK)
		if err != nil {
			return Ruling{}, err
		}
		if named == e.Host {
			out.Writes = append(out.Writes, Write{Key: identityKey(old.EK), Delete: true})
		}
	}
	if !e.Revoked {
		out.Writes = append(out.Writes, Write{Key: identityKey(e.EK), Value: []byte(e.Host)})
	}
	return out, nil
}
