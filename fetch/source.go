package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval/deb"
)

// Source is one repository that apt would use.
type Source struct {
	URI           string   // http, https or file
	Suite         string   // ends in / for a repository without components
	Components    []string // such as main
	Architectures []string // empty: those of the packages asked for
	SignedBy      []string // keyring files and fingerprints; empty: apt's trusted keys
	Key           []byte   // a key that the source itself holds, armoured
}

// String names the source as apt's messages do, without a password.
func (s Source) String() string { return redacted(strings.TrimSuffix(s.URI, "/")) + " " + s.Suite }

// redacted is an address for messages: a password in it is the machine's own.
func redacted(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	head, tail, ok := strings.Cut(address, "@")
	if scheme, _, has := strings.Cut(head, "://"); ok && has {
		return scheme + "://" + tail
	}
	return address
}

// maxSourceFile bounds one file of apt's configuration, in bytes.
const maxSourceFile = 4 << 20

// Sources reads apt's sources below root ("" is /): sources.list, then
// sources.list.d/*.list and *.sources in order of their names.
func Sources(root string) ([]Source, error) {
	files := []string{filepath.Join(root, "/etc/apt/sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		found, err := filepath.Glob(filepath.Join(root, "/etc/apt/sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	var out []Source
	for _, name := range files {
		raw, err := readFile(name, maxSourceFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parse := parseList
		if strings.HasSuffix(name, ".sources") {
			parse = parseSources
		}
		some, err := parse(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, some...)
	}
	return out, nil
}

func sourceError(format string, line int, problem string, args ...any) error {
	return &keystead.FormatError{Format: format, Offset: int64(line), Field: "source", Problem: fmt.Sprintf(problem, args...)}
}

// parseList reads the one-line style of sources.list(5): deb [options] URI SUITE COMPONENT….
func parseList(raw []byte) (out []Source, err error) {
	offset := 0
	for line := range bytes.Lines(raw) {
		text, _, _ := strings.Cut(strings.TrimSpace(string(line)), "#")
		if rest, ok := cutWord(text, "deb"); ok {
			s, err := parseOneLine(rest)
			if err != nil {
				return nil, sourceError("sources.list", offset, "%v", err)
			}
			out = append(out, s)
		} else if _, ok := cutWord(text, "deb-src"); !ok && strings.TrimSpace(text) != "" {
			return nil, sourceError("sources.list", offset, "%.60q begins with neither deb nor deb-src", text)
		}
		offset += len(line)
	}
	return out, nil
}

func cutWord(text, word string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(text, word)
	return rest, ok && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "\t"))
}

func parseOneLine(rest string) (s Source, err error) {
	rest = strings.TrimSpace(rest)
	if strings.HasPrefix(rest, "[") {
		options, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return s, errors.New("options have no end")
		}
		rest = after
		for _, o := range strings.Fields(options) {
			key, value, _ := strings.Cut(o, "=")
			value = strings.Trim(value, `"`)
			switch strings.ToLower(key) {
			case "arch":
				s.Architectures = strings.Split(value, ",")
			case "signed-by":
				s.SignedBy = strings.Split(value, ",")
			}
		}
	}
	f := strings.Fields(rest)
	if len(f) < 2 {
		return s, errors.New("wants an address and a suite")
	}
	s.URI, s.Suite, s.Components = f[0], f[1], f[2:]
	return s, s.check()
}

// parseSources reads the deb822 style of sources.list(5).
func parseSources(raw []byte) (out []Source, err error) {
	var text []byte
	for line := range bytes.Lines(raw) {
		if !bytes.HasPrefix(line, []byte("#")) {
			text = append(text, line...)
		}
	}
	for st, err := range deb.Stanzas("sources", text) {
		if err != nil {
			return nil, err
		}
		if !slices.Contains(strings.Fields(st.Get("Types")), "deb") || slices.Contains([]string{"no", "false", "0", "off", "disable", "without"}, strings.ToLower(st.Get("Enabled"))) {
			continue
		}
		one := Source{Components: strings.Fields(st.Get("Components")), Architectures: strings.Fields(st.Get("Architectures"))}
		if signed := st.Get("Signed-By"); strings.Contains(signed, "-----BEGIN") {
			one.Key = unfold(signed)
		} else {
			one.SignedBy = strings.FieldsFunc(signed, func(r rune) bool { return strings.ContainsRune(" \t\r\n,", r) })
		}
		uris, suites := strings.Fields(st.Get("URIs")), strings.Fields(st.Get("Suites"))
		if len(uris) == 0 || len(suites) == 0 {
			return nil, sourceError("sources", st.Offset, "has no URIs or no Suites")
		}
		for _, uri := range uris {
			for _, suite := range suites {
				one.URI, one.Suite = uri, suite
				if err := one.check(); err != nil {
					return nil, sourceError("sources", st.Offset, "%v", err)
				}
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// unfold takes the folding off an embedded key: one blank a line, and a dot for an empty one.
func unfold(folded string) []byte {
	var b bytes.Buffer
	for line := range strings.SplitSeq(folded, "\n") {
		if line = strings.TrimSpace(line); line == "." {
			line = ""
		}
		b.WriteString(line + "\n")
	}
	return b.Bytes()
}

func (s Source) check() error {
	if flat := strings.HasSuffix(s.Suite, "/"); flat == (len(s.Components) > 0) {
		return fmt.Errorf("%s: a suite has components, and one that ends in / has none", s)
	}
	for _, part := range append([]string{s.Suite}, s.Components...) {
		if slices.Contains(strings.Split(part, "/"), "..") {
			return fmt.Errorf("%s: %q leads upwards", s, part)
		}
	}
	return nil
}

// base is where InRelease lies.
func (s Source) base() string {
	uri := strings.TrimSuffix(s.URI, "/") + "/"
	if len(s.Components) == 0 {
		return uri + strings.TrimPrefix(s.Suite, "./")
	}
	return uri + "dists/" + s.Suite + "/"
}

// address is where a file lies that an index names below the repository's root.
func (s Source) address(filename string) string {
	return strings.TrimSuffix(s.URI, "/") + "/" + (&url.URL{Path: strings.TrimPrefix(filename, "./")}).EscapedPath()
}

// indexes are the names of the Packages files for the architectures.
func (s Source) indexes(architectures []string) (names []string) {
	if len(s.Components) == 0 {
		return []string{"Packages"}
	}
	if len(s.Architectures) > 0 {
		architectures = s.Architectures
	}
	for _, c := range s.Components {
		for _, a := range architectures {
			names = append(names, c+"/binary-"+a+"/Packages")
		}
	}
	return names
}

// listFile is how apt names its copy of a file of the source in its lists: the
// address without scheme and user, quoted, with _ for /.
func (s Source) listFile(name string) string {
	_, rest, _ := strings.Cut(s.base()+name, "://")
	if !strings.Contains(s.base(), "://") {
		_, rest, _ = strings.Cut(s.base()+name, ":")
	}
	if host, after, ok := strings.Cut(rest, "/"); ok {
		rest = host[strings.LastIndexByte(host, '@')+1:] + "/" + after
	}
	var b strings.Builder
	for i := range len(rest) {
		if c := rest[i]; c <= ' ' || c > '~' || strings.IndexByte("\\|{}[]<>\"^~_=!@#$%&*", c) >= 0 {
			fmt.Fprintf(&b, "%%%02x", c)
		} else {
			b.WriteByte(c)
		}
	}
	return strings.ReplaceAll(b.String(), "/", "_")
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}
