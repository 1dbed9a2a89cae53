package conf

import (
	"fmt"
	"reflect"
	"strings"
)

// Gaps holds a manual, which is a configuration with comments, to the struct that it
// explains: every field stands there once, under a comment that says whom it trusts.
func Gaps(manual string, config any) (gaps []string) {
	documented := map[string]bool{}
	table, comment := "", ""
	for line := range strings.Lines(manual) {
		line = strings.TrimSpace(line)
		name, _, assigns := strings.Cut(line, " = ")
		switch {
		case strings.HasPrefix(line, "#"):
			comment += line + "\n"
			continue
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]") + "."
		case assigns:
			if !strings.Contains(comment, "# Trusts: ") {
				gaps = append(gaps, table+name+": its comment does not say whom it trusts")
			}
			documented[table+name] = true
		}
		comment = ""
	}
	have := fields(reflect.TypeOf(config), "")
	for _, f := range have {
		if !documented[f] {
			gaps = append(gaps, f+" is missing")
		}
	}
	if len(documented) != len(have) {
		gaps = append(gaps, fmt.Sprintf("has %d fields, the configuration %d", len(documented), len(have)))
	}
	return gaps
}

func fields(t reflect.Type, prefix string) (out []string) {
	for f := range t.Fields() {
		if f.Anonymous {
			out = append(out, fields(f.Type, prefix)...)
			continue
		}
		name := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			out = append(out, fields(f.Type, name+".")...)
			continue
		}
		out = append(out, name)
	}
	return out
}
