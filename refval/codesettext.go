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
//	2  loader; kernels and initrds by their package, and ${version} in their command lines;
//	   vendor, ima-key
var codeSetMagics = []string{string(key.KindCodeSet), string(key.KindBootSet)}

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
	c := &CodeSet{text: text, digest: keystead.Sum([]byte(text)), files: map[keystead.Digest]Code{}}
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
		if !slices.Contains(codeSetMagics, line) {
			return fmt.Errorf("is %.40q, want one of %q", line, codeSetMagics)
		}
		c.packages = line == string(key.KindBootSet)
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
	case word == "loader" && c.packages:
		c.loaders = append(c.loaders, rest)
		return checkPackage(rest)
	case word == "vendor" && c.packages:
		return c.parseVendor(rest)
	case word == "ima-key" && c.packages:
		return c.parseIMAKey(rest)
	case word == "boot":
		b, err := parseBoot(rest, c.packages)
		c.boots = append(c.boots, b)
		return err
	}
	return fmt.Errorf("%.40q is not one of name, file, boot, nor, in version 2, loader, vendor, ima-key", word)
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

// parseBoot reads "NAME kernel=PART initrd=PART|none guarantees=A,B cmdline=JSON-STRING",
// where a part is a digest or, in version 2, a package.
func parseBoot(rest string, packages bool) (b Boot, err error) {
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
	part := func(v string) (d keystead.Digest, pkg string) {
		d, pkg, perr := parsePart(v, packages)
		if perr != nil && err == nil {
			err = fmt.Errorf("boot %s: %w", b.Name, perr)
		}
		return d, pkg
	}
	b.Kernel, b.KernelPackage = part(value("kernel"))
	if v := value("initrd"); v != "none" {
		b.Initrd, b.InitrdPackage = part(v)
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

const packagePart = "package:"

// parsePart reads a digest or, if it may be one, a package.
func parsePart(v string, packages bool) (d keystead.Digest, pkg string, err error) {
	if name, ok := strings.CutPrefix(v, packagePart); ok && packages {
		return d, name, checkPackage(name)
	}
	if d, err = keystead.ParseDigest(v); err == nil && d.IsZero() {
		err = fmt.Errorf("an all-zero digest names nothing")
	}
	return d, "", err
}

// checkPackage admits a package's name, or the beginning of one and an asterisk.
func checkPackage(name string) error {
	if bare := strings.TrimSuffix(name, "*"); bare == "" || strings.Contains(bare, "*") {
		return fmt.Errorf("%.80q is no package's name, nor the beginning of one and an asterisk", name)
	}
	return checkWord("package", name)
}

// formatPart gives the text of a part.
func formatPart(d keystead.Digest, pkg string) string {
	switch {
	case pkg != "":
		return packagePart + pkg
	case d.IsZero():
		return "none"
	}
	return d.String()
}

func (b Boot) check() error {
	if b.KernelPackage == "" && strings.Contains(b.CommandLine, version) {
		return fmt.Errorf("boot %s: %s stands for a package's kernel, and this one is a digest", b.Name, version)
	}
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

// formatCodeSet gives the text form: loaders, files by digest, boot entries by name.
func formatCodeSet(name string, files []Code, boots []Boot, loaders []string) string {
	var b strings.Builder
	magic := key.KindCodeSet
	if len(loaders) > 0 || slices.ContainsFunc(boots, func(b Boot) bool { return b.KernelPackage+b.InitrdPackage != "" }) {
		magic = key.KindBootSet
	}
	fmt.Fprintf(&b, "%s\nname %s\n", magic, name)
	files, boots = slices.Clone(files), slices.Clone(boots)
	slices.SortFunc(files, func(a, b Code) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	slices.SortFunc(boots, func(a, b Boot) int { return strings.Compare(a.Name, b.Name) })
	for _, l := range slices.Sorted(slices.Values(loaders)) {
		fmt.Fprintf(&b, "loader %s\n", l)
	}
	for _, f := range files {
		fmt.Fprintf(&b, "file %v %s %s\n", f.Digest, f.Path, f.Version)
	}
	for _, e := range boots {
		list := "none"
		if len(e.Guarantees) > 0 {
			words := make([]string, len(e.Guarantees))
			for i, g := range e.Guarantees {
				words[i] = string(g)
			}
			slices.Sort(words)
			list = strings.Join(words, ",")
		}
		fmt.Fprintf(&b, "boot %s kernel=%s initrd=%s guarantees=%s cmdline=%s\n", e.Name, formatPart(e.Kernel, e.KernelPackage), formatPart(e.Initrd, e.InitrdPackage), list, quote(e.CommandLine))
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
