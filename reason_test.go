package keystead

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestReasonsAreListedOnce holds three lists together: the constants, their
// stages, and docs/spec/reasons.md.
func TestReasonsAreListedOnce(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[Reason]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Reason" {
			s, _ := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			declared[Reason(s)] = true
		}
		return false
	})
	doc, err := os.ReadFile("docs/spec/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[Reason]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]) \\|").FindAllStringSubmatch(string(doc), -1) {
		documented[Reason(m[1])] = m[2]
	}
	for r := range declared {
		if !r.Known() {
			t.Errorf("%s has no stage", r)
		}
		if documented[r] != strconv.Itoa(int(r.Stage())) {
			t.Errorf("%s: docs/spec/reasons.md says stage %q, the code %d", r, documented[r], r.Stage())
		}
	}
	for r := range documented {
		if !declared[r] {
			t.Errorf("docs/spec/reasons.md explains %s, which no code gives", r)
		}
	}
	if len(declared) < 20 || len(stages) != len(declared) {
		t.Errorf("%d reasons declared, %d with a stage", len(declared), len(stages))
	}
}

func TestDenyError(t *testing.T) {
	err := error(Deny(
		Finding{Reason: ReasonFileUnknown, Got: "sha256:00", Where: "/run/x"},
		Finding{Reason: ReasonEKUntrusted, Want: "a configured root", Got: "CN=nobody"},
	))
	if got, want := err.Error(), "denied: file-unknown: /run/x: got sha256:00 (and 1 more)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, ReasonEKUntrusted) || errors.Is(err, ReasonNonceMismatch) {
		t.Error("errors.Is must find a finding's reason and no other")
	}
	var d *DenyError
	if !errors.As(err, &d) || d.Stage() != StageCollateral {
		t.Errorf("the first failing stage decides: got %d", d.Stage())
	}
	if got := Reason("made-up").Stage(); got != StageInternal {
		t.Errorf("an unlisted reason is internal, got %d", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a refusal without a finding must panic")
		}
	}()
	_ = Deny()
}

func TestDigestText(t *testing.T) {
	d := Sum([]byte("keystead"))
	back, err := ParseDigest(d.String())
	if err != nil || back != d {
		t.Fatalf("round trip: %v, %v", back, err)
	}
	s := d.String()
	for _, bad := range []string{"", s[1:], s + "0", s[:len(s)-1], "md5:" + s[7:], s[:7] + "AB" + s[9:], s[:7] + "zz" + s[9:], s[7:]} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("ParseDigest(%q) must fail", bad)
		}
	}
}
