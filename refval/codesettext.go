package refval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// MaxCodeSet bounds a code set's text, in bytes.
const MaxCodeSet = key.MaxText

// codeSetMagic is the first line and carries the version. It only ever grows:
//
//	1  name, file, boot
const codeSetMagic = string(key.KindCodeSet)

func codeSetError(offset int, field, format string, args ...any) error {
	return &keystead.FormatError{Format: "codeset", Offset: int64(offset), Field: field, Problem: fmt.Sprintf(format, args...)}
}

// ParseCodeSet reads the text form (docs/spec/codeset.md). It proves nothing about
// who wrote it; use OpenCodeSet for that. It fails with a *keystead.FormatError
// whose offset is that of the line.
func ParseCodeSet(text string) (*CodeSet, error) {
	if len(text) > MaxCodeSet {
		return nil, codeSetError(0, "whole", "is %d bytes long, at most %d are accepted", len(text), MaxCodeSet)
	}
	c := &CodeSet{text: text, files: map[keystead.Digest]Code{}}
	offset := 0
	for number := 0; offset < len(text); number++ {
		line, _, ended := strings.Cut(text[offset:], "\n")
		if !ended {
			return nil, codeSetError(offset, "line", "has no newline at its end")
		}
		if err := c.parseLine(number, line); err != nil {
			return nil, codeSetError(offset, fmt.Sprintf("line %d", number+1), "%v", err)
		}
		offset += len(line) + 1
	}
	if c.name == "" {
		return nil, codeSetError(offset, "name", "is missing")
	}
	slices.SortFunc(c.boots, func(a, b Boot) int { return strings.Compare(a.Name, b.Name) })
	for i := range c.boots {
		if i > 0 && c.boots[i-1].Name == c.boots[i].Name {
			return nil, codeSetError(0, "boot", "%q is stated twice", c.boots[i].Name)
		}
	}
	return c, nil
}

func (c *CodeSet) parseLine(number int, line string) error {
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("holds control characters or is not UTF-8")
	}
	if number == 0 {
		if line != codeSetMagic {
			return fmt.Errorf("is %.40q, want %q", line, codeSetMagic)
		}
		return nil
	}
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "" || strings.HasPrefix(line, "#"):
		return nil
	case word == "name" && c.name != "":
		return fmt.Errorf("names the set a second time")
	case word == "name":
		c.name = rest
		return checkWord("name", rest)
	case word == "file":
		return c.parseFile(rest)
	case word == "boot":
		b, err := parseBoot(rest)
		c.boots = append(c.boots, b)
		return err
	}
	return fmt.Errorf("%.40q is not one of name, file, boot", word)
}

// parseFile reads "DIGEST PATH VERSION". A path holds no spaces.
func (c *CodeSet) parseFile(rest string) error {
	fields := strings.Split(rest, " ")
	if len(fields) != 3 {
		return fmt.Errorf("want: file DIGEST PATH VERSION")
	}
	d, err := keystead.ParseDigest(fields[0])
	if err != nil {
		return err
	}
	if _, ok := CanonicalPath(fields[1]); !ok || !strings.HasPrefix(fields[1], "/") {
		return fmt.Errorf("%q is not an absolute path", fields[1])
	}
	if _, ok := c.files[d]; ok {
		return fmt.Errorf("%v is stated twice", d)
	}
	c.files[d] = Code{Digest: d, Path: fields[1], Version: fields[2]}
	return checkWord("version", fields[2])
}

// parseBoot reads "NAME kernel=DIGEST initrd=DIGEST|none guarantees=A,B cmdline=JSON-STRING".
func parseBoot(rest string) (b Boot, err error) {
	var ok bool
	if b.Name, rest, ok = strings.Cut(rest, " "); !ok {
		return b, fmt.Errorf("want: boot NAME kernel=DIGEST initrd=DIGEST guarantees=LIST cmdline=STRING")
	}
	if err := checkWord("name", b.Name); err != nil {
		return b, err
	}
	value := func(key string) (v string) {
		if v, ok = strings.CutPrefix(rest, key+"="); !ok && err == nil {
			err = fmt.Errorf("boot %s: want %s= at %.40q", b.Name, key, rest)
		}
		if key != "cmdline" {
			v, rest, _ = strings.Cut(v, " ")
		}
		return v
	}
	digest := func(v string) (d keystead.Digest) {
		d, perr := keystead.ParseDigest(v)
		if perr == nil && d.IsZero() {
			perr = fmt.Errorf("an all-zero digest names nothing")
		}
		if perr != nil && err == nil {
			err = fmt.Errorf("boot %s: %w", b.Name, perr)
		}
		return d
	}
	b.Kernel = digest(value("kernel"))
	if v := value("initrd"); v != "none" {
		b.Initrd = digest(v)
	}
	list, cmdline := value("guarantees"), value("cmdline")
	if err != nil {
		return b, err
	}
	if list != "none" {
		for g := range strings.SplitSeq(list, ",") {
			b.Guarantees = append(b.Guarantees, Guarantee(g))
		}
	}
	if err := json.Unmarshal([]byte(cmdline), &b.CommandLine); err != nil {
		return b, fmt.Errorf("boot %s: cmdline: %w", b.Name, err)
	}
	if one := quote(b.CommandLine); string(one) != cmdline {
		return b, fmt.Errorf("boot %s: cmdline: want the spelling %s", b.Name, one)
	}
	return b, b.check()
}

func (b Boot) check() error {
	for i, g := range b.Guarantees {
		if !slices.Contains(guarantees, g) {
			return fmt.Errorf("boot %s: guarantee %q is not one of %v", b.Name, g, guarantees)
		}
		if i > 0 && b.Guarantees[i-1] >= g {
			return fmt.Errorf("boot %s: guarantees are out of order", b.Name)
		}
	}
	return nil
}

// checkWord admits what stands between two spaces.
func checkWord(field, s string) error {
	if s == "" || len(s) > 256 || strings.ContainsAny(s, " \"") {
		return fmt.Errorf("%s %.40q must be one word of at most 256 bytes", field, s)
	}
	return nil
}

// formatCodeSet gives the text form: files by digest, boot entries by name.
func formatCodeSet(name string, files []Code, boots []Boot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nname %s\n", codeSetMagic, name)
	files, boots = slices.Clone(files), slices.Clone(boots)
	slices.SortFunc(files, func(a, b Code) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	slices.SortFunc(boots, func(a, b Boot) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range files {
		fmt.Fprintf(&b, "file %v %s %s\n", f.Digest, f.Path, f.Version)
	}
	for _, e := range boots {
		initrd, list := "none", "none"
		if !e.Initrd.IsZero() {
			initrd = e.Initrd.String()
		}
		if len(e.Guarantees) > 0 {
			words := make([]string, len(e.Guarantees))
			for i, g := range e.Guarantees {
				words[i] = string(g)
			}
			slices.Sort(words)
			list = strings.Join(words, ",")
		}
		fmt.Fprintf(&b, "boot %s kernel=%v initrd=%s guarantees=%s cmdline=%s\n", e.Name, e.Kernel, initrd, list, quote(e.CommandLine))
	}
	return b.String()
}

func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.TrimSpace(b.Bytes())
}
