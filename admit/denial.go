package admit

import (
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
)

// Denial puts hardware, or a key of applications, on the domain's deny list, or takes it
// off. The subject says what: see DenyEK, DenyIssuer, DenyFirmware and DenyApp.
type Denial struct {
	Domain  keystead.Digest
	Subject string
	Base    uint64
	Lifted  bool   // takes it off the list
	Because string // for people, one line

	// MayExclude is how many of the domain's current nodes may fall out by it. It is of the
	// statement alone: what is written has no such line.
	MayExclude uint64
}

const maxBecause = 1024 // bytes

// DenyEK is the subject that denies one TPM, by its hardware identity.
func DenyEK(ek keystead.Digest) string { return "ek/" + ek.String() }

// DenyIssuer is the subject that denies every TPM whose endorsement certificate that
// authority issued: the digest of its public key (PKIX DER), the claim key.issuer_key.
func DenyIssuer(spki keystead.Digest) string { return "issuer/" + spki.String() }

// DenyFirmware is the subject that denies a firmware version: of the TPM, the claim
// quote.firmware, or of the machine, the claim boot.firmware. A version of more than
// 64 bytes, or with other characters than letters, digits, dot, dash, plus and
// underscore, is named by the digest of its text.
func DenyFirmware(version string) string {
	if version == "" || len(version) > 64 || strings.Trim(version, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+_") != "" {
		version = keystead.Sum([]byte(version)).String()
	}
	return "firmware/" + version
}

// DenyApp is the subject that denies an application: by the digest of its certificate's key
// (PKIX DER), or of one program before it was signed. It ends no lease.
func DenyApp(d keystead.Digest) string { return "app/" + d.String() }

func (d *Denial) statement() Statement {
	s := Statement{key.KindDenial, d.Domain, d.Subject, d.Base, nil}
	if d.Lifted {
		s.Fields = append(s.Fields, Field{"lifted", "true"})
	}
	s.Fields = append(s.Fields, Field{"because", d.Because})
	return s.mayExclude(d.MayExclude)
}

func readDenial(s Statement) (Denial, error) {
	r := s.reader()
	d := Denial{Domain: s.Domain, Subject: s.Subject, Base: s.Base, Lifted: r.flag("lifted"), Because: r.value("because")}
	d.MayExclude = r.mayExclude(!d.Lifted && d.OfHardware())
	if len(d.Because) > maxBecause {
		r.fail("because", "is %d bytes long, at most %d are accepted", len(d.Because), maxBecause)
	}
	if !validDenial(d.Subject) {
		r.fail("subject", "%.120q is not ek/DIGEST, issuer/DIGEST, firmware/VERSION or app/DIGEST", d.Subject)
	}
	return d, r.end()
}

func validDenial(subject string) bool {
	what, name, _ := strings.Cut(subject, "/")
	d, err := keystead.ParseDigest(name)
	switch what {
	case "ek", "issuer", "app":
		return err == nil && !d.IsZero()
	case "firmware":
		return err == nil || DenyFirmware(name) == subject
	}
	return false
}

// OfHardware reports whether it is machines that are denied, and not an application.
func (d *Denial) OfHardware() bool { return !strings.HasPrefix(d.Subject, "app/") }

// Text returns the text that members sign.
func (d *Denial) Text() ([]byte, error) { return checked(d.statement(), readDenial) }

// ParseDenial reads the text.
func ParseDenial(text []byte) (Denial, error) { return parsed(key.KindDenial, text, readDenial) }

// OpenDenial returns the denial that the members signed; see Case.Open.
func OpenDenial(signed []byte, c Case) (Denial, error) {
	return opened(c, key.KindDenial, signed, readDenial)
}

// JudgeDenial endorses a denial. It writes denial/SUBJECT, the statement's text without
// may-exclude, and deletes it when the denial is lifted.
func JudgeDenial(s State, c Case, signed []byte) (Ruling, error) {
	d, err := OpenDenial(signed, c)
	if err != nil {
		return Ruling{}, err
	}
	text, err := d.Text()
	if err != nil {
		return Ruling{}, err
	}
	d.MayExclude = 0
	written, err := d.Text()
	if err != nil {
		return Ruling{}, err
	}
	w := Write{Key: denialKey(d.Subject), Value: written}
	if d.Lifted {
		w = Write{Key: w.Key, Delete: true}
		v, err := s.Judged(w.Key)
		if err != nil {
			return Ruling{}, err
		}
		if v.Version == 0 {
			return Ruling{}, deny(keystead.ReasonRuleFailed, "denial "+d.Subject, "a denial to lift", "none")
		}
	}
	return Ruling{Content: text, Writes: []Write{w}}, nil
}

// Denials are the subjects that would deny a machine of those claims.
func Denials(c *evidence.Claims, ek keystead.Digest) []string {
	out := []string{DenyEK(ek)}
	if d, err := keystead.ParseDigest(c.Key.IssuerKey); err == nil {
		out = append(out, DenyIssuer(d))
	}
	for _, version := range []string{c.Quote.Firmware, c.Boot.Firmware} {
		if version != "" {
			out = append(out, DenyFirmware(version))
		}
	}
	return out
}

// Denied returns a finding, hardware-denied, for each of the subjects that is on the deny
// list.
func Denied(s State, where string, subjects []string) (findings []keystead.Finding, err error) {
	for _, subject := range subjects {
		v, err := s.Judged(denialKey(subject))
		if err != nil {
			return nil, err
		}
		if v.Version == 0 {
			continue
		}
		d, err := ParseDenial(v.Data)
		if err != nil {
			return nil, err
		}
		findings = append(findings, keystead.Finding{Reason: keystead.ReasonHardwareDenied, Where: where,
			Want: "hardware that is on no deny list", Got: subject + ": " + d.Because})
	}
	return findings, nil
}
