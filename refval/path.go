package refval

import "strings"

// maxPath is Linux's PATH_MAX, in bytes.
const maxPath = 4096

// merged are the directories that Debian's usrmerge made links into /usr.
var merged = [...]string{"/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/libo32/"}

// CanonicalPath gives the one spelling by which a set knows a path: absolute, and
// below /usr for what usrmerge moved there, so that "./bin/ls" of a package,
// "/bin/ls" and "/usr/bin/ls" of a kernel's log are one file. On a machine that is
// not merged these may be two files; both packages' digests are then wanted at the
// one name, and both are their vendor's.
//
// A path that dpkg-divert moved is known by the package's name for it, not by the
// diverted one; its digest is found all the same. ok is false for what can not be
// a file's path: relative steps, empty components, NUL, or more than 4096 bytes.
func CanonicalPath(p string) (canonical string, ok bool) {
	p = strings.TrimPrefix(p, ".")
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	if len(p) > maxPath-len("/usr") || !clean(p) {
		return "", false
	}
	for _, dir := range merged {
		if strings.HasPrefix(p, dir) {
			return "/usr" + p, true
		}
	}
	return p, true
}

// clean reports whether p consists of "/name" components only.
func clean(p string) bool {
	if strings.IndexByte(p, 0) >= 0 {
		return false
	}
	for rest := p; rest != ""; {
		rest = rest[1:] // the slash
		end := strings.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		if name := rest[:end]; name == "" || name == "." || name == ".." {
			return false
		}
		rest = rest[end:]
	}
	return true
}

// Loadable reports whether the name is one of a shared object or kernel module.
func Loadable(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	for _, end := range []string{".gz", ".xz", ".zst"} {
		name = strings.TrimSuffix(name, end)
	}
	return strings.HasSuffix(name, ".so") || strings.HasSuffix(name, ".ko") || strings.Contains(name, ".so.")
}
