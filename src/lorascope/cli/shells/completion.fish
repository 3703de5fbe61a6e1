# Completion of lorascope in fish.      lorascope completion fish --install
function __lorascope
    set -l typed (commandline -opc)
    set -l found ($typed[1] complete (commandline -cp) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c lorascope -f -a '(__lorascope)'
