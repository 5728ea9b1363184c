/** How far a JSON number has come. It can end behind `zero`, `digits`, `fraction` and `exponent`. */
export type NumberState = 'minus' | 'zero' | 'digits' | 'point' | 'fraction' | 'e' | 'sign' | 'exponent'

/** The state behind the first character of a number; undefined when no number begins with it. */
export function beginNumber(code: number): NumberState | undefined {
  if (code === minus) return 'minus'
  if (code === zero) return 'zero'
  return isDigit(code) ? 'digits' : undefined
}

/** The state behind one more character; undefined when it is no part of the number. */
export function continueNumber(state: NumberState, code: number): NumberState | undefined {
  switch (state) {
    case 'minus':
      return code === minus ? undefined : beginNumber(code)
    case 'zero':
      return code === point ? 'point' : isE(code) ? 'e' : undefined
    case 'digits':
      return isDigit(code) ? 'digits' : code === point ? 'point' : isE(code) ? 'e' : undefined
    case 'point':
      return isDigit(code) ? 'fraction' : undefined
    case 'fraction':
      return isDigit(code) ? 'fraction' : isE(code) ? 'e' : undefined
    case 'e':
      return isDigit(code) ? 'exponent' : code === minus || code === plus ? 'sign' : undefined
    case 'sign':
    case 'exponent':
      return isDigit(code) ? 'exponent' : undefined
  }
}

/** Whether what has come is a number already. */
export function isNumber(state: NumberState): boolean {
  return state === 'zero' || state === 'digits' || state === 'fraction' || state === 'exponent'
}

const plus = 43
const minus = 45
const point = 46
const zero = 48
const nine = 57

function isDigit(code: number): boolean {
  return code >= zero && code <= nine
}

function isE(code: number): boolean {
  return code === 69 || code === 101
}
