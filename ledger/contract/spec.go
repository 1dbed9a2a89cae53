package contract

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
)

// Types of what nodes judge here.
const (
	Type     = "contract" // subject NAME: contract/NAME, the specification
	UserType = "user"     // subject NAME: user/NAME
)

// Spec is what members want of a contract: its code, its bounds, and who may call it.
type Spec struct {
	Domain keystead.Digest
	Name   string
	Base   uint64          // version of the specification before, on the ledger; 0 for none
	Code   keystead.Digest // of the module, an object of kind contract
	Bounds Bounds
	Policy []byte // text of the policy over calls (docs/spec/policy.md); it decides who may call what
}

// Claims are what a contract's policy may speak of.
type Claims struct {
	Method string       `cel:"method"`
	Caller CallerClaims `cel:"caller"`
}

// CallerClaims are about who calls.
type CallerClaims struct {
	Kind  string   `cel:"kind"`
	Name  string   `cel:"name"`
	Roles []string `cel:"roles"`
}

// Vocabulary is what policies of contracts may speak of. An assurance in them says nothing: a
// caller shows none.
func Vocabulary() policy.Vocabulary {
	return policy.Vocabulary{Claims: Claims{}, Levels: appraise.Vocabulary().Levels}
}

// Reserved are names of contracts that nodes write, or that are taken otherwise.
func Reserved() []string {
	return []string{"agreement", "archive", "contact", "kv", "net", "recorder", "recovery", "relay", "svid"}
}

// ValidName reports whether a contract or user may be named so: 1 to 64 of a-z, 0-9, dot and dash.
func ValidName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// Text returns the specification as members sign it.
func (s *Spec) Text() ([]byte, error) {
	b := fmt.Appendf(nil, "%s\ndomain %s\nsubject %s\nbase %d\ncode %s\ngas %d\npages %d\npolicy\n", key.KindContract, receipt.Origin(s.Domain), s.Name, s.Base, s.Code, s.Bounds.Gas, s.Bounds.Pages)
	b = append(b, s.Policy...)
	_, _, err := ParseSpec(b)
	return b, err
}

// ParseSpec reads a specification and compiles its policy.
func ParseSpec(text []byte) (s Spec, p *policy.Policy, err error) {
	l := lines{format: string(key.KindContract), rest: text}
	l.first(key.KindContract)
	s.Domain, s.Name, s.Base = l.domain(), l.name("subject"), l.number("base", 0, 1<<62)
	s.Code = l.digest("code")
	s.Bounds = Bounds{Gas: int64(l.number("gas", 1, MaxGas)), Pages: uint32(l.number("pages", 1, MaxPages))}
	if word := l.line("policy"); l.err == nil && word != "policy" {
		l.fail("policy", "is %.40q; a line \"policy\" comes before the policy's text", word)
	}
	if l.err == nil && slices.Contains(Reserved(), s.Name) {
		l.fail("subject", "%q is a name that no contract of members has", s.Name)
	}
	if l.err != nil {
		return Spec{}, nil, l.err
	}
	s.Policy = l.rest
	if p, err = policy.Compile(s.Policy, Vocabulary()); err != nil {
		return Spec{}, nil, err
	}
	return s, p, nil
}

// A User is whom members let call contracts, by a key.
type User struct {
	Domain  keystead.Digest
	Name    string // of the key as well
	Base    uint64
	Key     key.MemberPublic
	Roles   []string // ascending
	Revoked bool
}

// MaxRoles bounds the roles of a user.
const MaxRoles = 32

// Text returns the statement as members sign it.
func (u *User) Text() ([]byte, error) {
	b := fmt.Appendf(nil, "%s\ndomain %s\nsubject %s\nbase %d\nkey %s\n", key.KindUser, receipt.Origin(u.Domain), u.Name, u.Base, u.Key)
	for _, r := range u.Roles {
		b = fmt.Appendf(b, "role %s\n", r)
	}
	if u.Revoked {
		b = append(b, "revoked true\n"...)
	}
	_, err := ParseUser(b)
	return b, err
}

// ParseUser reads the statement.
func ParseUser(text []byte) (u User, err error) {
	l := lines{format: string(key.KindUser), rest: text}
	l.first(key.KindUser)
	u.Domain, u.Name, u.Base = l.domain(), l.name("subject"), l.number("base", 0, 1<<62)
	if u.Key, err = key.ParseMemberPublic([]byte(l.value("key"))); err != nil && l.err == nil {
		l.fail("key", "%v", err)
	}
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("role ")) {
		r := l.name("role")
		if n := len(u.Roles); n == MaxRoles || n > 0 && u.Roles[n-1] >= r {
			l.fail("role", "%q is one too many, or out of order", r)
		}
		u.Roles = append(u.Roles, r)
	}
	if l.err == nil && len(l.rest) > 0 {
		if v := l.value("revoked"); l.err == nil && v != "true" {
			l.fail("revoked", "is %.40q", v)
		}
		u.Revoked = true
	}
	if l.err == nil && len(l.rest) > 0 {
		l.fail("end", "is followed by %d bytes", len(l.rest))
	}
	if l.err == nil && u.Key.Name() != u.Name {
		l.fail("key", "is of the name %.80q, not %s", u.Key.Name(), u.Name)
	}
	if l.err != nil {
		return User{}, l.err
	}
	return u, nil
}

// Question is what a caller signs: one call, for one domain, once.
type Question struct {
	Domain   keystead.Digest
	Request  [16]byte
	Deadline uint64 // of the domain, Unix milliseconds
	Contract string
	Method   string
	Input    []byte
}

// Text is what is signed.
func (q *Question) Text() []byte {
	return fmt.Appendf(nil, "%s\ndomain %s\nrequest %x\ndeadline %d\ncontract %s\nmethod %s\ninput %s\n", key.KindCall, receipt.Origin(q.Domain), q.Request, q.Deadline, q.Contract, q.Method, keystead.Sum(q.Input))
}

// Sign returns the signature by a user's or member's key: the line of a signed note.
func (q *Question) Sign(by key.Member) ([]byte, error) {
	note, err := by.Sign(q.Text())
	if err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(note, append(q.Text(), '\n')), nil
}

// Verify refuses a signature that is not by the key over the question (note-unsigned).
func (q *Question) Verify(signature []byte, by key.MemberPublic) error {
	_, _, err := key.Open(append(append(q.Text(), '\n'), signature...), key.KindCall, by)
	return err
}

// lines reads the lines of a statement, in their one order and spelling.
type lines struct {
	format string
	rest   []byte
	at     int64
	err    error
}

func (l *lines) fail(field, format string, args ...any) {
	if l.err == nil {
		l.err = &keystead.FormatError{Format: l.format, Offset: l.at, Field: field, Problem: fmt.Sprintf(format, args...)}
	}
}

func (l *lines) line(field string) string {
	if l.err != nil {
		return ""
	}
	line, rest, found := bytes.Cut(l.rest, []byte("\n"))
	if !found {
		l.fail(field, "is missing")
		return ""
	}
	l.rest = rest
	l.at += int64(len(line)) + 1
	return string(line)
}

func (l *lines) first(kind key.Kind) {
	if first := l.line("first line"); l.err == nil && first != string(kind) {
		l.fail("first line", "is %.40q, want %s", first, kind)
	}
}

func (l *lines) value(word string) string {
	v, ok := strings.CutPrefix(l.line(word), word+" ")
	if !ok {
		l.fail(word, "is missing in its place")
	}
	return v
}

func (l *lines) number(word string, least, most uint64) uint64 {
	v := l.value(word)
	n, err := strconv.ParseUint(v, 10, 64)
	if l.err == nil && (err != nil || strconv.FormatUint(n, 10) != v || n < least || n > most) {
		l.fail(word, "%.40q is not a number from %d to %d", v, least, most)
	}
	return n
}

func (l *lines) name(word string) string {
	v := l.value(word)
	if l.err == nil && !ValidName(v) {
		l.fail(word, "%.80q is not 1 to 64 of a-z, 0-9, dot and dash", v)
	}
	return v
}

func (l *lines) domain() keystead.Digest {
	v := l.value("domain")
	d, err := receipt.ParseOrigin(v)
	if l.err == nil && err != nil {
		l.fail("domain", "%.100q is not an origin, keystead/ and 64 hex digits", v)
	}
	return d
}

func (l *lines) digest(word string) keystead.Digest {
	d, err := keystead.ParseDigest(l.value(word))
	if l.err == nil && (err != nil || d.IsZero()) {
		l.fail(word, "is no digest")
	}
	return d
}
