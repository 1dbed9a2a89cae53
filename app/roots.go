package app

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/process"
)

// rootsMagic opens the object app-roots and has its version.
const rootsMagic = "keystead-app-roots/1"

// Bounds of the object.
const (
	MaxRoots    = 1 << 20 // bytes
	maxRoots    = 64
	maxHosts    = 256 // of a root
	maxUsers    = 64  // ranges, of a root
	maxHostName = 256 // bytes
)

// A Root is an authority for applications: for which names, at which level at least, on
// which hosts and under which users.
type Root struct {
	Prefix      string        // of names, by whole words: "billing" is for billing and billing/…; "*" for all
	Least       process.Level // peer, measured or launched
	Hosts       []string      // names, ascending; or "*" alone
	Users       []Users       // ascending, apart from each other
	Certificate []byte        // DER

	digest keystead.Digest // of the certificate's key
	parsed *certificate
}

// Users are numbers of users, from first to last.
type Users struct{ First, Last uint32 }

// EveryUser is every number.
var EveryUser = Users{0, math.MaxUint32}

func (u Users) String() string {
	switch {
	case u == EveryUser:
		return "*"
	case u.First == u.Last:
		return strconv.FormatUint(uint64(u.First), 10)
	}
	return fmt.Sprintf("%d-%d", u.First, u.Last)
}

// Roots are the authorities for applications that terms name. The zero value vouches for
// nobody.
type Roots struct{ list []Root }

// List returns the roots, in the order of the object.
func (r *Roots) List() []Root { return slices.Clone(r.list) }

// issuer returns the root that a sub-certificate chains to, both being in their time, if
// it may vouch for that name.
func (r *Roots) issuer(sub *certificate, at time.Time) (*Root, error) {
	var named *Root
	for i := range r.list {
		root := &r.list[i]
		if !bytes.Equal(root.parsed.RawSubject, sub.RawIssuer) || sub.CheckSignatureFrom(root.parsed.Certificate) != nil {
			continue
		}
		if named == nil || root.covers(sub.name) {
			named = root
		}
	}
	switch {
	case named == nil:
		return nil, certForeign("a sub-certificate by a root of the domain", fmt.Sprintf("one by %.80q", sub.Issuer.String()))
	case !named.covers(sub.name):
		return nil, certForeign("a name that the root may vouch for: "+named.Prefix, sub.name)
	}
	if err := named.parsed.within("a root", at); err != nil {
		return nil, err
	}
	return named, sub.within("a sub-certificate", at)
}

func (r *Root) covers(name string) bool {
	return r.Prefix == "*" || name == r.Prefix || strings.HasPrefix(name, r.Prefix+"/")
}

func (r *Root) admits(level process.Level, host string, uid uint32) error {
	switch {
	case level < r.Least:
		return refuse(keystead.ReasonLevelLow, r.Least.String(), level.String())
	case r.Hosts[0] != "*" && !slices.Contains(r.Hosts, host):
		return appMismatch("a host that the root lets the program run on", host)
	case !slices.ContainsFunc(r.Users, func(u Users) bool { return u.First <= uid && uid <= u.Last }):
		return appMismatch("a user that the root lets the program run as", strconv.FormatUint(uint64(uid), 10))
	}
	return nil
}

// FormatRoots writes roots as an object: in its one spelling.
func FormatRoots(list []Root) ([]byte, error) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Root) int {
		if c := strings.Compare(a.Prefix, b.Prefix); c != 0 {
			return c
		}
		return bytes.Compare(a.Certificate, b.Certificate)
	})
	text := writeRoots(list)
	_, err := ParseRoots(text)
	return text, err
}

func writeRoots(list []Root) []byte {
	b := []byte(rootsMagic + "\n")
	for _, r := range list {
		b = fmt.Appendf(b, "root %s %s\n", r.Prefix, r.Least)
		for _, h := range r.Hosts {
			b = fmt.Appendf(b, "host %s\n", h)
		}
		for _, u := range r.Users {
			b = fmt.Appendf(b, "uid %s\n", u)
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate})...)
	}
	return b
}

// ParseRoots reads the object app-roots. It fails with a *keystead.FormatError. There is
// one spelling.
func ParseRoots(text []byte) (*Roots, error) {
	p := rootsParser{left: text, whole: text}
	if len(text) > MaxRoots || p.line() != rootsMagic {
		return nil, p.fail("whole", "want the line %s, and at most 1 MiB", rootsMagic)
	}
	r := &Roots{}
	for len(p.left) > 0 {
		if len(r.list) == maxRoots {
			return nil, p.fail("root", "are more than %d", maxRoots)
		}
		root, err := p.root()
		if err != nil {
			return nil, err
		}
		if n := len(r.list); n > 0 && (r.list[n-1].Prefix > root.Prefix || r.list[n-1].Prefix == root.Prefix && bytes.Compare(r.list[n-1].Certificate, root.Certificate) >= 0) {
			return nil, p.fail("root", "%s is out of order, or stands there twice", root.Prefix)
		}
		r.list = append(r.list, root)
	}
	if len(r.list) == 0 {
		return nil, p.fail("root", "is missing")
	}
	if !bytes.Equal(writeRoots(r.list), text) {
		return nil, p.fail("text", "is not in its one canonical spelling")
	}
	return r, nil
}

type rootsParser struct{ whole, left []byte }

func (p *rootsParser) fail(field, format string, args ...any) error {
	return &keystead.FormatError{Format: "app-roots", Offset: int64(len(p.whole) - len(p.left)), Field: field, Problem: fmt.Sprintf(format, args...)}
}

// line takes a line off; what has no newline is no line.
func (p *rootsParser) line() string {
	line, rest, ended := bytes.Cut(p.left, []byte("\n"))
	if !ended || len(line) > 2*maxHostName {
		return ""
	}
	p.left = rest
	return string(line)
}

// lines takes off at most limit lines that begin with a word.
func (p *rootsParser) lines(word string, limit int) (out []string) {
	for len(out) <= limit && bytes.HasPrefix(p.left, []byte(word+" ")) {
		before := len(p.left)
		line := p.line()
		if len(p.left) == before {
			break
		}
		out = append(out, strings.TrimPrefix(line, word+" "))
	}
	return out
}

func (p *rootsParser) root() (r Root, err error) {
	words := strings.Split(p.line(), " ")
	if len(words) != 3 || words[0] != "root" {
		return r, p.fail("root", "want: root PREFIX LEVEL")
	}
	r.Prefix = words[1]
	if r.Prefix != "*" && CheckName(r.Prefix) != nil {
		return r, p.fail("prefix", "%.80q is neither * nor a name", r.Prefix)
	}
	if r.Least, err = process.ParseLevel(words[2]); err != nil {
		return r, p.fail("level", "%v", err)
	}
	r.Hosts = p.lines("host", maxHosts)
	if n := len(r.Hosts); n == 0 || n > maxHosts || n > 1 && slices.Contains(r.Hosts, "*") || !slices.IsSorted(r.Hosts) || slices.ContainsFunc(r.Hosts, badHost) || len(slices.Compact(slices.Clone(r.Hosts))) != n {
		return r, p.fail("host", "want host * alone, or 1 to %d names, ascending", maxHosts)
	}
	users := p.lines("uid", maxUsers)
	for _, s := range users {
		u, ok := parseUsers(s)
		if n := len(r.Users); !ok || n > 0 && r.Users[n-1].Last >= u.First {
			return r, p.fail("uid", "%.40q is neither *, a number, nor FIRST-LAST, or out of order", s)
		}
		r.Users = append(r.Users, u)
	}
	if len(users) == 0 || len(users) > maxUsers {
		return r, p.fail("uid", "want 1 to %d lines", maxUsers)
	}
	block, rest := pem.Decode(p.left)
	if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 || !bytes.HasPrefix(p.left, []byte("-----BEGIN")) {
		return r, p.fail("certificate", "want one in PEM")
	}
	if r.parsed, err = parseRoot(block.Bytes); err != nil {
		return r, p.fail("certificate", "%v", err)
	}
	p.left, r.Certificate, r.digest = rest, block.Bytes, r.parsed.digest
	return r, nil
}

func badHost(s string) bool {
	return s == "" || len(s) > maxHostName || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

func parseUsers(s string) (u Users, ok bool) {
	if s == "*" {
		return EveryUser, true
	}
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 32)
	b, err2 := strconv.ParseUint(last, 10, 32)
	u = Users{uint32(a), uint32(b)}
	return u, err == nil && err2 == nil && a <= b && u.String() == s
}
