package admit

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
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
	Role    string           // host or node: which terms it is judged by
	EK      keystead.Digest  // of the endorsement key's public key, PKIX DER; the claim key.ek; zero for a host without a TPM
	TEE     evidence.TEEHost // of a host whose evidence is that of a TEE alone, which is of the role host
	Revoked bool             // ends the enrolment of that role and identity
}

// Identity is the hardware identity: the endorsement key's digest, or of a host with a TEE
// alone that of kind, machine and key ([evidence.TEEHost.Identity]).
func (e *Enrolment) Identity() keystead.Digest {
	if !e.TEE.IsZero() {
		return e.TEE.Identity()
	}
	return e.EK
}

func (e *Enrolment) statement() Statement {
	s := Statement{key.KindEnrolment, e.Domain, e.Host, e.Base, []Field{{"role", e.Role}}}
	if e.TEE.IsZero() {
		s.Fields = append(s.Fields, Field{"ek", e.EK.String()})
	} else {
		s.Fields = append(s.Fields, Field{"tee", e.TEE.Kind}, Field{"machine", e.TEE.Machine}, Field{"key", e.TEE.Key.String()})
	}
	if e.Revoked {
		s.Fields = append(s.Fields, Field{"revoked", "true"})
	}
	return s
}

func readEnrolment(s Statement) (Enrolment, error) {
	r := s.reader()
	e := Enrolment{Domain: s.Domain, Host: s.Subject, Base: s.Base, Role: r.oneOf("role", RoleHost, RoleNode)}
	if r.is("tee") {
		e.TEE = evidence.TEEHost{Kind: r.value("tee"), Machine: r.value("machine"), Key: r.digest("key")}
		if err := e.TEE.Check(); err != nil {
			r.fail("tee", "%v", err)
		}
		if e.Role != RoleHost {
			r.fail("role", "is %s: a host with a TEE alone is of the role %s", e.Role, RoleHost)
		}
	} else {
		e.EK = r.digest("ek")
	}
	e.Revoked = r.flag("revoked")
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
func HostOf(s State, identity keystead.Digest) (string, error) {
	v, err := s.Judged(identityKey(identity))
	return string(v.Data), err
}

// JudgeEnrolment endorses an enrolment whose hardware identity no other name has,
// or one that revokes what is there. It writes enrolment/host/NAME, the
// statement's text, and enrolment/identity/DIGEST, the name. Of two enrolments of one identity
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
	was, is := old.Identity(), e.Identity()
	other, err := HostOf(s, is)
	if err != nil {
		return Ruling{}, err
	}
	where := "enrolment of " + e.Host
	switch {
	case e.Revoked && (version == 0 || old.Revoked):
		return Ruling{}, deny(keystead.ReasonHostUnenrolled, where, "an enrolment to revoke", "none")
	case e.Revoked && was != is:
		return Ruling{}, deny(keystead.ReasonHardwareForeign, where, "the identity that is enrolled, "+was.String(), is.String())
	case e.Revoked && old.Role != e.Role:
		return Ruling{}, deny(keystead.ReasonRuleFailed, where, "the role that is enrolled, "+old.Role, e.Role)
	case !e.Revoked && other != "" && other != e.Host:
		return Ruling{}, deny(keystead.ReasonHardwareTaken, where, "a hardware identity that no other host has", fmt.Sprintf("%v, which is %s", is, other))
	}
	text, err := e.Text()
	if err != nil {
		return Ruling{}, err
	}
	out := Ruling{Content: text, Writes: []Write{{Key: enrolmentKey(e.Host), Value: text}}}
	if version != 0 && !old.Revoked && (e.Revoked || was != is) {
		named, err := HostOf(s, was)
		if err != nil {
			return Ruling{}, err
		}
		if named == e.Host {
			out.Writes = append(out.Writes, Write{Key: identityKey(was), Delete: true})
		}
	}
	if !e.Revoked {
		out.Writes = append(out.Writes, Write{Key: identityKey(is), Value: []byte(e.Host)})
	}
	return out, nil
}
