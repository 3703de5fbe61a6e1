#compdef lorascope
# Completion of lorascope in zsh.      lorascope completion zsh --install
_lorascope() {
    local -a found open whole
    found=("${(@f)$(${words[1]} complete "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    open=(${(M)found:#*[=.]})
    whole=(${found:#*[=.]})
    if (( ${#open} + ${#whole} )); then
        (( ${#open} )) && compadd -S '' -- $open
        (( ${#whole} )) && compadd -- $whole
    else
        compset -P '*='
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _lorascope lorascope
