// Package chart draws series and meters as text: sparklines, area charts and bars out of braille dots, block elements
// or plain ASCII. Its functions are pure: same input, same output, no colour, no escape sequences. Every line that
// comes back has exactly the width that was asked for.
package chart
