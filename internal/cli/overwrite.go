package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// maxDifference bounds the lines of each text that are held against each other: beyond it, the
// rest of each counts as other.
const maxDifference = 2000

// Difference returns what two texts do not have in common, line by line: what is gone after "- ",
// what is new after "+ ", in the order of the texts.
func Difference(old, new string) (out []string) {
	a, b := lines(old), lines(new)
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	same := 0
	for same < min(len(a), len(b)) && a[len(a)-1-same] == b[len(b)-1-same] {
		same++
	}
	a, b = a[:len(a)-same], b[:len(b)-same]
	if len(a) > maxDifference || len(b) > maxDifference {
		return append(marked("- ", a), marked("+ ", b)...)
	}
	longest := make([][]int, len(a)+1) // common subsequence of a[i:] and b[j:]
	for i := range longest {
		longest[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if longest[i][j] = max(longest[i+1][j], longest[i][j+1]); a[i] == b[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && longest[i+1][j] >= longest[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func marked(mark string, lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, mark+l)
	}
	return out
}

// Changes shows what a statement changes about what there is, on stderr. The version that it is
// upon changes always, and is left out; so are the statement's domain and what founding terms have
// in its place.
func (a *App) Changes(what, old, new string) (changed bool) {
	plain := func(text string) string {
		kept := slices.DeleteFunc(lines(text), func(l string) bool { return strings.HasPrefix(l, "base ") || strings.HasPrefix(l, "domain ") })
		return strings.Join(kept, "\n")
	}
	difference := Difference(plain(old), plain(new))
	if len(difference) == 0 {
		fmt.Fprintf(a.Stderr, "keystead: %s: nothing changes\n", what)
		return false
	}
	fmt.Fprintf(a.Stderr, "keystead: %s:\n", what)
	for _, l := range difference {
		fmt.Fprintf(a.Stderr, "  %s\n", Printable(l))
	}
	return true
}

// ReplaceHelp says what replace does, for a flag of that name.
const ReplaceHelp = "go on although there is one of that name already"

// Overwrite shows what becomes of a thing that there is, and refuses unless it is to be replaced.
func (a *App) Overwrite(what, old, new string, replace bool) error {
	changed := a.Changes(what, old, new)
	switch {
	case replace:
		return nil
	case !changed:
		return Misuse(fmt.Errorf("%s is there already, and as it would be made", what), "there is nothing to do; --replace hands it in all the same")
	}
	return Misuse(fmt.Errorf("%s is there already, and would be replaced as shown above", what), "--replace does so; or take another name")
}

// Confirm asks whoever types, and refuses unless the answer is yes. Where nobody types, --yes is the
// answer.
func (a *App) Confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return Misuse(fmt.Errorf("%s: nobody is there to say so", question), "--yes says so")
	}
	fmt.Fprintf(a.Stderr, "keystead: %s? Type yes: ", question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return Misuse(errors.New("not done: the answer was not yes"), "")
	}
	return nil
}
