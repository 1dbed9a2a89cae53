package key_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

const policyText = "keystead-policy/1\nname example\n\nrules none\n"

func member(t testing.TB, name string) key.Member {
	t.Helper()
	m, err := key.NewMember(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sign(t testing.TB, m key.Member, text string) []byte {
	t.Helper()
	n, err := m.Sign([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func Example() {
	seed := bytes.NewReader(bytes.Repeat([]byte{7}, 32)) // crypto/rand.Reader outside of examples
	alice, _ := key.NewMember(seed, "alice")
	signed, _ := alice.Sign([]byte("keystead-policy/1\nname example\n"))
	text, by, err := key.Open(signed, key.KindPolicy, alice.Public())
	fmt.Printf("%s%v %v\n", text, by[0].ID(), err)
	fmt.Println(alice)
	// Output:
	// keystead-policy/1
	// name example
	// alice+bc68c201 <nil>
	// [private key of a member]
}

func TestTextFormsRoundTrip(t *testing.T) {
	m := member(t, "example.org/ops")
	again, err := key.ParseMember(m.Encode())
	if err != nil || again.Public() != m.Public() {
		t.Fatalf("private key: %v, %v", again.Public(), err)
	}
	public, err := key.ParseMemberPublic([]byte(m.Public().String() + "\n"))
	if err != nil || public != m.Public() || public.Name() != "example.org/ops" {
		t.Fatalf("public key: %v, %v", public, err)
	}
}

func TestPrivateKeyIsNeverPrinted(t *testing.T) {
	m := member(t, "alice")
	secret := strings.TrimSpace(string(m.Encode()))
	secret = secret[strings.LastIndexByte(secret, '+')+1:]
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&out, verb, m)
		fmt.Fprintf(&out, verb, &m)
		fmt.Fprintf(&out, verb, []any{m})
		fmt.Fprintf(&out, verb, struct{ K key.Member }{m})
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", m, "ptr", &m)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", m, "group", slog.GroupValue(slog.Any("k", m)))
	if _, err := json.Marshal(m); err == nil {
		t.Error("a private key encodes as JSON")
	}
	for _, leak := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), "PRIVATE+KEY"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("the private key was printed:\n%s", out.String())
		}
	}
	if reflect.TypeFor[key.Member]().Comparable() {
		t.Error("private keys compare with ==, which leaks through timing and invites maps of keys")
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	m := member(t, "alice")
	private, public := string(m.Encode()), m.Public().String()
	for name, text := range map[string]string{
		"empty":          "",
		"public":         public,
		"cut":            private[:len(private)-3],
		"renamed":        strings.Replace(private, "alice", "mally", 1),
		"two lines":      private + private,
		"carriage":       strings.TrimSpace(private) + "\r\n",
		"huge":           strings.Repeat("A", 1<<20),
		"other type":     strings.Replace(private, "+A", "+B", 1),
		"only a prefix":  "PRIVATE+KEY+",
		"no hash":        "PRIVATE+KEY+alice+" + strings.Repeat("A", 44),
		"second newline": private + "\n",
	} {
		if _, err := key.ParseMember([]byte(text)); err == nil {
			t.Errorf("private key, %s: accepted", name)
		} else if secret := private[len(private)-20 : len(private)-1]; strings.Contains(err.Error(), secret) {
			t.Errorf("private key, %s: the error repeats it", name)
		}
	}
	upper := strings.ToUpper(m.Public().ID()[len("alice+"):])
	for name, text := range map[string]string{
		"private":   private,
		"renamed":   strings.Replace(public, "alice", "mally", 1),
		"bad name":  strings.Replace(public, "alice", "al ice", 1),
		"cut":       public[:len(public)-1],
		"respelled": "alice+" + upper + "x" + public[len(m.Public().ID()):],
	} {
		if _, err := key.ParseMemberPublic([]byte(text)); err == nil {
			t.Errorf("public key, %s: accepted", name)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\n", "é", strings.Repeat("a", 65)} {
		if _, err := key.NewMember(rand.Reader, name); err == nil {
			t.Errorf("name %q: accepted", name)
		}
	}
	if _, err := key.NewMember(bytes.NewReader(make([]byte, 31)), "alice"); err == nil {
		t.Error("31 bytes of randomness made a key")
	}
}

func TestOpen(t *testing.T) {
	alice, bob, mallory := member(t, "alice"), member(t, "bob"), member(t, "mallory")
	impostor := member(t, "alice") // another key under an accepted name
	signed := sign(t, alice, policyText)
	both, err := bob.Cosign(signed)
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := mallory.Cosign(signed)
	if err != nil {
		t.Fatal(err)
	}
	accepted := []key.MemberPublic{alice.Public(), bob.Public()}
	for name, tc := range map[string]struct {
		note     []byte
		accepted []key.MemberPublic
		by       []string
	}{
		"one signature":               {signed, accepted, []string{"alice"}},
		"two signatures":              {both, accepted, []string{"alice", "bob"}},
		"a stranger's extra":          {strangers, accepted, []string{"alice"}},
		"a key named twice":           {signed, append(accepted, accepted...), []string{"alice"}},
		"an empty key among accepted": {signed, append(accepted, key.MemberPublic{}), []string{"alice"}},
	} {
		text, by, err := key.Open(tc.note, key.KindPolicy, tc.accepted...)
		var names []string
		for _, p := range by {
			names = append(names, p.Name())
		}
		if err != nil || string(text) != policyText || !slices.Equal(names, tc.by) {
			t.Errorf("%s: by %v, want %v: %v", name, names, tc.by, err)
		}
	}

	codeset := sign(t, alice, "keystead-codeset/1\nname x\n")
	forged := bytes.Replace(signed, []byte("rules none"), []byte("rules many"), 1)
	for name, tc := range map[string]struct {
		note     []byte
		accepted []key.MemberPublic
		got      string
	}{
		"unsigned":                 {[]byte(policyText), accepted, "a text without signatures"},
		"signed by a stranger":     {sign(t, mallory, policyText), accepted, mallory.Public().ID()},
		"signed by an impostor":    {sign(t, impostor, policyText), accepted, impostor.Public().ID()},
		"text altered":             {forged, accepted, "not by that key over this text"},
		"another kind":             {codeset, accepted, "keystead-codeset/1"},
		"nobody is accepted":       {signed, nil, alice.Public().ID()},
		"only an empty key":        {signed, []key.MemberPublic{{}}, alice.Public().ID()},
		"text after the signature": {append(slices.Clone(signed), "\nname other\n"...), accepted, "without signatures"},
		"empty":                    {nil, accepted, "without signatures"},
	} {
		text, by, err := key.Open(tc.note, key.KindPolicy, tc.accepted...)
		var deny *keystead.DenyError
		if !errors.As(err, &deny) || deny.Findings[0].Reason != keystead.ReasonNoteUnsigned || text != nil || by != nil {
			t.Errorf("%s: want note-unsigned and nothing else, got %q %v %v", name, text, by, err)
			continue
		}
		if f := deny.Findings[0]; !strings.Contains(f.Got, tc.got) || f.Want == "" {
			t.Errorf("%s: want a finding that got %q, got %v", name, tc.got, f)
		}
	}
	_, _, err = key.Open(sign(t, mallory, policyText), key.KindPolicy, accepted...)
	if s := err.Error(); !strings.Contains(s, alice.Public().ID()) || !strings.Contains(s, bob.Public().ID()) {
		t.Errorf("the refusal does not list who would be accepted: %s", s)
	}
}

func TestOpenMalformed(t *testing.T) {
	alice := member(t, "alice")
	signed := sign(t, alice, policyText)
	for name, n := range map[string][]byte{
		"line after the signature": append(slices.Clone(signed), "more\n"...),
		"no last newline":          signed[:len(signed)-1],
		"bad base64":               bytes.Replace(signed, []byte("— alice "), []byte("— alice !"), 1),
		"control character":        bytes.Replace(signed, []byte("example"), []byte("exam\tple"), 1),
		"101 signatures":           append(slices.Clone(signed), bytes.Repeat([]byte("— x AAAAAAAA\n"), 101)...),
		"huge":                     make([]byte, key.MaxNote+1),
	} {
		_, _, err := key.Open(n, key.KindPolicy, alice.Public())
		var format *keystead.FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: want a FormatError, got %v", name, err)
		}
	}
}

func TestSignRefusesTexts(t *testing.T) {
	alice := member(t, "alice")
	for name, text := range map[string]string{
		"empty":               "",
		"unknown kind":        "keystead-lease/1\n",
		"kind not alone":      "keystead-policy/10\n",
		"no newline":          "keystead-policy/1\nname x",
		"a signature inside":  "keystead-policy/1\n\n— alice AAAA\n\nname x\n",
		"control character":   "keystead-policy/1\nname x\x1b[2J\n",
		"bidirectional order": "keystead-policy/1\n# \u202e x\n",
		"not UTF-8":           "keystead-policy/1\n\xff\n",
	} {
		if _, err := alice.Sign([]byte(text)); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := (key.Member{}).Sign([]byte(policyText)); err == nil {
		t.Error("the zero key signs")
	}
	if _, err := alice.Cosign([]byte(policyText)); !errors.Is(err, keystead.ReasonNoteUnsigned) {
		t.Errorf("cosigning what is no note: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	alice, err := key.NewMember(bytes.NewReader(bytes.Repeat([]byte{1}, 32)), "alice")
	if err != nil {
		f.Fatal(err)
	}
	signed := sign(f, alice, policyText)
	f.Add(signed)
	f.Add([]byte(policyText))
	f.Add([]byte("\n\n— "))
	f.Fuzz(func(t *testing.T, n []byte) {
		text, by, err := key.Open(n, key.KindPolicy, alice.Public())
		if (err == nil) != (len(by) == 1) {
			t.Fatalf("by %v, err %v", by, err)
		}
		if err == nil && string(text) != policyText {
			t.Fatalf("opened a text that alice never signed: %q", text)
		}
	})
}

func FuzzParseMember(f *testing.F) {
	alice, err := key.NewMember(bytes.NewReader(bytes.Repeat([]byte{1}, 32)), "alice")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(alice.Encode())
	f.Add([]byte(alice.Public().String()))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := key.ParseMember(text); err == nil && string(m.Encode()) != strings.TrimSuffix(string(text), "\n")+"\n" {
			t.Fatalf("%q is a second spelling of %q", text, m.Encode())
		}
		if p, err := key.ParseMemberPublic(text); err == nil && p.String() != strings.TrimSuffix(string(text), "\n") {
			t.Fatalf("%q is a second spelling of %q", text, p)
		}
	})
}
