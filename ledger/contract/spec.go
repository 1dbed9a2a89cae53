package contract

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/internal/lines"
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
	l := lines.New(string(key.KindContract), text)
	first(l, key.KindContract)
	s.Domain, s.Name, s.Base = l.Domain(), name(l, "subject"), l.Number("base", 0, 1<<62)
	s.Code = l.Digest("code")
	s.Bounds = Bounds{Gas: int64(l.Number("gas", 1, MaxGas)), Pages: uint32(l.Number("pages", 1, MaxPages))}
	s.Policy = l.Policy()
	if l.Err() == nil && slices.Contains(Reserved(), s.Name) {
		l.Fail("subject", "%q is a name that no contract of members has", s.Name)
	}
	if l.Err() != nil {
		return Spec{}, nil, l.Err()
	}
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
	l := lines.New(string(key.KindUser), text)
	first(l, key.KindUser)
	u.Domain, u.Name, u.Base = l.Domain(), name(l, "subject"), l.Number("base", 0, 1<<62)
	if u.Key, err = key.ParseMemberPublic([]byte(l.Value("key"))); err != nil && l.Err() == nil {
		l.Fail("key", "%v", err)
	}
	for l.Next("role") {
		r := name(l, "role")
		if n := len(u.Roles); n == MaxRoles || n > 0 && u.Roles[n-1] >= r {
			l.Fail("role", "%q is one too many, or out of order", r)
		}
		u.Roles = append(u.Roles, r)
	}
	if u.Revoked = l.Next("revoked"); u.Revoked {
		if v := l.Value("revoked"); v != "true" {
			l.Fail("revoked", "is %.40q", v)
		}
	}
	l.End()
	if l.Err() == nil && u.Key.Name() != u.Name {
		l.Fail("key", "is of the name %.80q, not %s", u.Key.Name(), u.Name)
	}
	if l.Err() != nil {
		return User{}, l.Err()
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

// first reads the line of the kind.
func first(l *lines.Reader, kind key.Kind) {
	if is := l.Line("first line"); l.Err() == nil && is != string(kind) {
		l.Fail("first line", "is %.40q, want %s", is, kind)
	}
}

func name(l *lines.Reader, word string) string {
	v := l.Value(word)
	if l.Err() == nil && !ValidName(v) {
		l.Fail(word, "%.80q is not 1 to 64 of a-z, 0-9, dot and dash", v)
	}
	return v
}
